import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { ClientReadableStream, ServiceError } from "@grpc/grpc-js";
import type { HubClient } from "./client.js";
import { Committer } from "./commits.js";
import { HubError } from "./errors.js";
import type { Event } from "./gen/tickets/hub/v1/event_pb.js";
import type { Erased, SubscribeRequestSchema, SubscribeResponse } from "./gen/tickets/hub/v1/event_service_pb.js";
import { Session, type Notice } from "./session.js";
import { pause, timer } from "./time.js";

export interface SubscribeOptions {
    /** Commit at the hub what was processed: a frame's cursor once the loop asks for the event after it. */
    autoCommit?: boolean;
    /**
     * Hears of what is neither an event nor an erasure. The loop goes on once it has returned, or its promise is resolved.
     * Without it the console warns of a reconnect and a gap.
     */
    onNotice?: (notice: Notice) => void | Promise<void>;
    /**
     * Hears of a user or a guild who is to be forgotten; once it has returned, or its promise is resolved, commits confirm
     * that nothing of them is kept. Without it the console warns, and automatic commits confirm no erasure.
     */
    onErased?: (erased: Erased) => void | Promise<void>;
    /** Ends the subscription. */
    signal?: AbortSignal;
}

interface Stream {
    call: ClientReadableStream<SubscribeResponse>;
    frames: AsyncIterator<SubscribeResponse, undefined>;
    keyVersion: number;
}

/**
 * The events of one subscription, for as long as it takes: `for await (const event of subscription)`. A broken stream is
 * opened again after the last event. The loop ends without an error by `close`, the signal, a `break`, or the end of the
 * client; it throws a `HubError` where opening again does not help.
 */
export class Subscription implements AsyncIterableIterator<Event> {
    private readonly session: Session;
    private readonly committer: Committer | undefined;
    private readonly ended = new AbortController();
    private stream: Stream | undefined;

    constructor(
        private readonly client: HubClient,
        request: MessageInitShape<typeof SubscribeRequestSchema>,
        private readonly options: SubscribeOptions,
    ) {
        this.session = new Session(request, client.policy);
        if (options.autoCommit) {
            this.committer = new Committer(client, request.subscriptionId ?? "", options.onErased === undefined);
        }
        const end = () => void this.close();
        if (options.signal?.aborted) end();
        options.signal?.addEventListener("abort", end);
        this.onEnd(() => options.signal?.removeEventListener("abort", end));
    }

    /**
     * After the last frame of which every event was handed over; empty before the first. Stored with the work that was done,
     * and given as `start: { case: "cursor", value: cursor }` in the next run, it resumes there.
     */
    get cursor(): string {
        return this.session.cursor;
    }

    [Symbol.asyncIterator](): this {
        return this;
    }

    async next(): Promise<IteratorResult<Event, undefined>> {
        try {
            while (!this.ended.signal.aborted) {
                const event = this.session.take();
                if (event) return { done: false, value: event };
                this.committer?.offer(this.session.cursor);
                await this.step();
            }
        } catch (error) {
            await this.close();
            throw error;
        }
        return { done: true, value: undefined };
    }

    async return(): Promise<IteratorResult<Event, undefined>> {
        await this.close();
        return { done: true, value: undefined };
    }

    /** Ends it now, a loop that waits for an event, too; resolves once the last commit was sent, or after two seconds. */
    async close(): Promise<void> {
        this.ended.abort();
        this.endStream();
        await this.committer?.stop();
    }

    /** Calls back when it ends; at once where it has ended. */
    onEnd(callback: () => void): void {
        if (this.ended.signal.aborted) callback();
        else this.ended.signal.addEventListener("abort", callback);
    }

    private async step(): Promise<void> {
        const frame = await this.read();
        if (!(frame instanceof HubError)) {
            const notice = this.session.received(frame);
            if (frame.notice.case === "erased") await this.forget(frame.notice.value);
            else if (notice) await this.tell(notice);
            return;
        }
        const version = this.stream?.keyVersion ?? this.client.keyVersion;
        this.endStream();
        if (this.ended.signal.aborted) return;
        const delay = this.session.ended(frame, await this.client.hasNewerKey(version, frame));
        await this.tell({ case: "reconnecting", value: { error: frame, delay } });
        await pause(delay, this.ended.signal);
    }

    /** The next frame, or what the stream ended with. Only the time in here counts as silence, not that of a slow loop. */
    private async read(): Promise<SubscribeResponse | HubError> {
        const { call, frames } = (this.stream ??= this.open());
        const watched = { silent: false };
        const watchdog = timer(this.session.patience, () => {
            watched.silent = true;
            call.cancel();
        });
        try {
            const { done, value } = await frames.next();
            return done ? new HubError("OK", "the hub ended the stream") : value;
        } catch (error) {
            return watched.silent ? this.session.silence() : HubError.from(error as ServiceError);
        } finally {
            clearTimeout(watchdog);
        }
    }

    private open(): Stream {
        const keyVersion = this.client.keyVersion;
        const call = this.client.openStream(this.session.open());
        call.on("error", () => undefined); // of a stream that was cancelled nobody reads any more
        return {
            call,
            frames: call[Symbol.asyncIterator]() as AsyncIterator<SubscribeResponse, undefined>,
            keyVersion,
        };
    }

    private endStream(): void {
        this.stream?.call.cancel();
        this.stream = undefined;
    }

    private async forget(erased: Erased): Promise<void> {
        if (this.options.onErased) await this.options.onErased(erased);
        else console.warn(`hub: somebody is to be forgotten (erasure ${erased.erasureId}): handle it in onErased`);
    }

    private async tell(notice: Notice): Promise<void> {
        if (this.options.onNotice) {
            await this.options.onNotice(notice);
        } else if (notice.case === "reconnecting") {
            const { error, delay } = notice.value;
            console.warn(`hub: the stream broke and is opened again in ${Math.round(delay)} ms: ${error.message}`);
        } else if (notice.case === "gap") {
            const times = [notice.value.fromTime, notice.value.toTime].map(
                (time) => time && timestampDate(time).toISOString(),
            );
            console.warn(`hub: events between ${times.join(" and ")} are not kept any more`);
        }
    }
}
