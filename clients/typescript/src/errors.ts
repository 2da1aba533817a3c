import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, type Any } from "@bufbuild/protobuf/wkt";
import { status as statuses, type ServiceError } from "@grpc/grpc-js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import { milliseconds } from "./time.js";

/** A field of the request that breaks a rule: its path ("event.guild_id") and what the rule wants. */
export interface Violation {
    readonly field: string;
    readonly description: string;
}

interface Details {
    reason?: string;
    metadata?: Record<string, string>;
    retryAfter?: number;
    violations?: readonly Violation[];
    eventIds?: readonly string[];
}

const reopened = new Set(["OK", "CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"]);
const repeated = new Set(["CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"]);

/** A call to the hub that failed. */
export class HubError extends Error {
    override readonly name = "HubError";
    /** A name of the contract's ErrorReason without its prefix; empty where the failure is not the hub's word. */
    readonly reason: string;
    /** What a program may want to know. */
    readonly metadata: Readonly<Record<string, string>>;
    /** Milliseconds that the hub asks to wait; undefined where it does not say. */
    readonly retryAfter: number | undefined;
    /** The fields that break a rule, of INVALID_REQUEST. */
    readonly violations: readonly Violation[];
    /**
     * The events of a failed emit. Whether they are stored is not known after UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED,
     * UNKNOWN and INTERNAL: emit them again with these ids.
     */
    readonly eventIds: readonly string[];
    /** For copies; printing an error shows its parts, not this one again. */
    readonly #details: Details;

    /** `code` is the gRPC status by name, `text` a sentence for people. */
    constructor(
        readonly code: string,
        readonly text: string,
        details: Details = {},
    ) {
        super(`${code}${details.reason ? ` ${details.reason}` : ""}: ${text}`);
        this.#details = details;
        this.reason = details.reason ?? "";
        this.metadata = details.metadata ?? {};
        this.retryAfter = details.retryAfter;
        this.violations = details.violations ?? [];
        this.eventIds = details.eventIds ?? [];
    }

    /** The failure of a call of grpc-js. */
    static from(error: ServiceError): HubError {
        const [serialized] = error.metadata.get("grpc-status-details-bin");
        const name = statuses[error.code];
        if (!(serialized instanceof Buffer)) return new HubError(name, error.details);
        try {
            return new HubError(name, error.details, detailsOf(fromBinary(StatusSchema, serialized).details));
        } catch {
            return new HubError(name, error.details); // a proxy has altered the details
        }
    }

    /** The failure that a result of a batch holds. */
    static fromStatus(code: number, message: string, details: readonly Any[]): HubError {
        return new HubError(statuses[code] ?? "UNKNOWN", message, detailsOf(details));
    }

    /** The same failure, as one of these events. */
    of(eventIds: readonly string[]): HubError {
        return new HubError(this.code, this.text, { ...this.#details, eventIds });
    }

    /** The same failure with another name for a field: a batch's "events[3]" is "event" to its caller. */
    renamed(before: string, after: string): HubError {
        const violations = this.violations.map((one) => ({ ...one, field: one.field.replace(before, after) }));
        return new HubError(this.code, this.text.replaceAll(`${before}.`, `${after}.`), {
            ...this.#details,
            violations,
        });
    }

    /** Whether opening the stream again may help. */
    get isReopenable(): boolean {
        return reopened.has(this.code) || this.passes;
    }

    /** Whether the same call again, with the same event ids, may help. */
    get isRepeatable(): boolean {
        return repeated.has(this.code) || this.passes;
    }

    /** Whether the key has ended; a newer one mends that. */
    get isKeyEnding(): boolean {
        return this.reason === "KEY_EXPIRED" || this.reason === "KEY_REVOKED";
    }

    /** Whether a limit was reached that passes. Without a reason it is gRPC's own, or a proxy's. */
    private get passes(): boolean {
        return this.code === "RESOURCE_EXHAUSTED" && (this.retryAfter !== undefined || this.reason === "");
    }
}

/** What calls on a closed client fail with. */
export function closedError(): HubError {
    return new HubError("CANCELLED", "this client is closed");
}

function detailsOf(packed: readonly Any[]): Details {
    const found: Details = {};
    for (const any of packed) {
        const info = anyUnpack(any, ErrorInfoSchema);
        if (info) Object.assign(found, { reason: info.reason, metadata: info.metadata });
        const retry = anyUnpack(any, RetryInfoSchema);
        if (retry) found.retryAfter = milliseconds(retry.retryDelay);
        const bad = anyUnpack(any, BadRequestSchema);
        if (bad) found.violations = bad.fieldViolations.map(({ field, description }) => ({ field, description }));
    }
    return found;
}
