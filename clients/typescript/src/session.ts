import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { HubError } from "./errors.js";
import type { Event } from "./gen/tickets/hub/v1/event_pb.js";
import {
    SubscribeRequestSchema,
    type Goodbye,
    type SubscribeRequest,
    type SubscribeResponse,
} from "./gen/tickets/hub/v1/event_service_pb.js";
import { milliseconds } from "./time.js";

/** Timeouts and delays of a client, in milliseconds. */
export interface Policy {
    /** About how long to wait after the first failure; doubled with each further one. */
    firstDelay: number;
    /** The largest delay, unless the hub itself asks for more. */
    maxDelay: number;
    /** How long the first frame of a stream may take. */
    openTimeout: number;
    /** A stream is dead after two heartbeat intervals and this without a frame. */
    slack: number;
    /** How long the end of a stream may take after it was announced. */
    goodbyeTimeout: number;
    /** How long one call may take with all its repetitions. */
    callTimeout: number;
    /** How long one try of it may take. */
    tryTimeout: number;
    /** Automatic commits come at most this often. */
    commitInterval: number;
}

export const defaultPolicy: Readonly<Policy> = {
    firstDelay: 250,
    maxDelay: 30_000,
    openTimeout: 20_000,
    slack: 1_000,
    goodbyeTimeout: 5_000,
    callTimeout: 30_000,
    tryTimeout: 10_000,
    commitInterval: 1_000,
};

/** What onNotice hears: each reconnect, with its delay in milliseconds, and the contract's notices but erasures. */
export type Notice =
    | Exclude<SubscribeResponse["notice"], { case: undefined } | { case: "erased" }>
    | { case: "reconnecting"; value: { error: HubError; delay: number } };

/** Delays that grow with each failure in a row: doubled, capped, and between half and the whole by chance. */
export class Backoff {
    private failures = 0;

    constructor(private readonly policy: Policy) {}

    succeeded(): void {
        this.failures = 0;
    }

    /** The delay after one more failure: at least what the hub asked for, and exactly that after the first one. */
    failed(asked?: number): number {
        const grown = this.policy.firstDelay * 2 ** Math.min(this.failures, 32);
        const delay = Math.min(this.policy.maxDelay, grown) * (0.5 + Math.random() / 2);
        const first = this.failures === 0;
        this.failures += 1;
        if (asked === undefined) return delay;
        return first ? asked : Math.max(asked, delay);
    }
}

/** One subscription across as many streams as it takes. It does no I/O: `Subscription` drives it. */
export class Session {
    /** After the last frame of which every event was handed over; empty before the first. */
    cursor = "";
    /** Without a frame for this long the stream is dead. */
    patience = 0;
    private readonly backoff: Backoff;
    private readonly events: Event[] = [];
    private frameCursor = "";
    private ready = false;
    private goodbye: Goodbye | undefined;

    constructor(
        private readonly request: MessageInitShape<typeof SubscribeRequestSchema>,
        private readonly policy: Policy,
    ) {
        this.backoff = new Backoff(policy);
    }

    /** Begins another stream: the caller's request, after the cursor once there is one. */
    open(): SubscribeRequest {
        this.ready = false;
        this.goodbye = undefined;
        this.patience = this.policy.openTimeout;
        const request = create(SubscribeRequestSchema, this.request);
        return this.cursor ? { ...request, start: { case: "cursor", value: this.cursor } } : request;
    }

    /** Keeps a frame's events for `take`, and returns its notice. */
    received(frame: SubscribeResponse): Notice | undefined {
        this.events.push(...frame.events);
        this.frameCursor = frame.cursor;
        if (this.events.length === 0) this.finishFrame();
        const { notice } = frame;
        if (notice.case === "ready") {
            const interval = milliseconds(notice.value.heartbeatInterval);
            if (interval > 0) this.patience = 2 * interval + this.policy.slack;
        } else if (notice.case === "goodbye") {
            this.goodbye = notice.value;
            this.patience = this.policy.goodbyeTimeout;
        }
        // A frame after ready is a success; ready and a goodbye in a circle prove nothing.
        if (this.ready && !this.goodbye) this.backoff.succeeded();
        this.ready ||= notice.case === "ready";
        return notice.case === undefined || notice.case === "erased" ? undefined : notice;
    }

    /** The next event to hand over; undefined: there is none until another frame comes. */
    take(): Event | undefined {
        const event = this.events.shift();
        if (event && this.events.length === 0) this.finishFrame();
        return event;
    }

    /** Says how long to wait before the next stream; throws where opening one would not help. */
    ended(error: HubError, newerKey: boolean): number {
        if (newerKey && error.isKeyEnding) return this.backoff.failed(0);
        if (!error.isReopenable) throw error;
        if (!this.goodbye) return this.backoff.failed(error.retryAfter);
        if (!this.goodbye.reconnect) {
            throw new HubError("CANCELLED", this.goodbye.reason || error.text, { reason: error.reason });
        }
        return this.backoff.failed(milliseconds(this.goodbye.retryDelay));
    }

    silence(): HubError {
        return new HubError("DEADLINE_EXCEEDED", `no frame for ${this.patience} ms`);
    }

    private finishFrame(): void {
        this.cursor = this.frameCursor || this.cursor;
    }
}
