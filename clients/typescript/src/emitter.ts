import { randomFillSync } from "node:crypto";
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import type { HubClient } from "./client.js";
import { closedError, HubError } from "./errors.js";
import { EventSchema, type Event } from "./gen/tickets/hub/v1/event_pb.js";
import { EventService, type EmitEventResponse } from "./gen/tickets/hub/v1/event_service_pb.js";
import { within } from "./time.js";

/** Events in one call: a rule of the contract. */
export const maxBatch = 1_000;
/** Bytes of events in a call that several callers share. */
const maxCallBytes = 256 * 1024;

/** The events of one caller. */
interface Parcel {
    events: Event[];
    /** Stored whole or not at all. */
    isList: boolean;
    /** In a call of its own. */
    isAlone: boolean;
    since: number;
    size: number;
    resolve: (results: EmitEventResponse[]) => void;
    reject: (error: HubError) => void;
}

/** Sends events in their order, one call at a time, so that none overtakes one that has to be sent again. */
export class Emitter {
    private readonly waiting: Parcel[] = [];
    private underWay: Parcel[] = [];
    private running: Promise<void> | undefined;
    private closed = false;

    constructor(private readonly client: HubClient) {}

    async emit(wanted: MessageInitShape<typeof EventSchema>[], isList: boolean): Promise<EmitEventResponse[]> {
        const events = wanted.map((event) => {
            event.id ||= newEventId(Date.now()); // in the caller's own: emitting it again repeats the id
            return create(EventSchema, event);
        });
        if (this.closed) throw closedError().of(events.map(({ id }) => id));
        const size = events.reduce((sum, event) => sum + toBinary(EventSchema, event).length, 0);
        return new Promise((resolve, reject) => {
            this.waiting.push({ events, isList, isAlone: isList, since: performance.now(), size, resolve, reject });
            this.running ??= this.run();
        });
    }

    /** Refuses new events, waits for the earlier ones, and returns the ids of those that are still under way. */
    async finish(patience: number): Promise<string[]> {
        this.closed = true;
        await within(patience, this.running);
        for (const parcel of this.waiting.splice(0)) parcel.reject(closedError().of(idsOf(parcel)));
        return this.underWay.flatMap(idsOf);
    }

    /** Makes calls until nothing waits. */
    private async run(): Promise<void> {
        while (this.waiting.length > 0) {
            this.underWay = this.take();
            try {
                this.settle(this.underWay, await this.send(this.underWay));
            } catch (error) {
                this.fail(this.underWay, error instanceof HubError ? error : new HubError("UNKNOWN", String(error)));
            }
            this.underWay = [];
        }
        this.running = undefined;
    }

    private take(): Parcel[] {
        let size = 0;
        let count = 0;
        for (const parcel of this.waiting.slice(0, maxBatch)) {
            size += parcel.size;
            if (count > 0 && (parcel.isAlone || size > maxCallBytes)) break;
            count += 1;
            if (parcel.isAlone) break;
        }
        return this.waiting.splice(0, count);
    }

    private async send(call: Parcel[]): Promise<EmitEventResponse[]> {
        const events = call.flatMap((parcel) => parcel.events);
        const isList = call[0]?.isList ?? false;
        const [event] = events;
        if (events.length === 1 && event && !isList) {
            return [await this.client.call(EventService.method.emitEvent, { event })];
        }
        const { results } = await this.client.call(EventService.method.batchEmitEvents, {
            events,
            independent: !isList,
        });
        if (results.length !== events.length)
            throw new HubError("INTERNAL", "the hub answered for another number of events");
        return results;
    }

    private settle(call: Parcel[], results: EmitEventResponse[]): void {
        if (call[0]?.isList) {
            call[0].resolve(results);
            return;
        }
        results.forEach((result, index) => {
            const parcel = call[index] as Parcel;
            if (result.error) {
                const { code, message, details } = result.error;
                parcel.reject(
                    HubError.fromStatus(code, message, details).renamed(`events[${index}]`, "event").of(idsOf(parcel)),
                );
            } else {
                parcel.resolve([result]);
            }
        });
    }

    private fail(call: Parcel[], error: HubError): void {
        if (call.length > 1 && (error.code === "INVALID_ARGUMENT" || error.code === "ALREADY_EXISTS")) {
            // The hub does not judge each event alone: one of them fails the others.
            this.waiting.unshift(...call.map((parcel) => ({ ...parcel, isAlone: true })));
            return;
        }
        for (const parcel of call) parcel.reject(error.of(idsOf(parcel)));
        if (!error.isRepeatable) return;
        // The hub is away: what has waited for as long as a call may take fails, too.
        const until = performance.now() - this.client.policy.callTimeout;
        while (this.waiting[0] && this.waiting[0].since <= until) {
            const parcel = this.waiting.shift() as Parcel;
            parcel.reject(error.of(idsOf(parcel)));
        }
    }
}

function idsOf(parcel: Parcel): string[] {
    return parcel.events.map(({ id }) => id);
}

/** A UUIDv7 (RFC 9562): ordered by time, which keeps the hub's index small. */
function newEventId(unixMs: number): string {
    const bytes = randomFillSync(Buffer.alloc(16));
    bytes.writeUIntBE(unixMs, 0, 6);
    bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x70, 6);
    bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
    return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
