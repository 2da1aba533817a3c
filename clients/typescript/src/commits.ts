import type { HubClient } from "./client.js";
import { HubError } from "./errors.js";
import { EventService } from "./gen/tickets/hub/v1/event_service_pb.js";
import { Backoff } from "./session.js";
import { lastWait, pause, within } from "./time.js";

/** Commits for one subscription beside delivery: one call at a time, not too often, the newest cursor wins. */
export class Committer {
    private offered = "";
    private waiting = "";
    private failure: HubError | undefined;
    private notBefore = 0;
    private running: Promise<void> | undefined;
    private readonly stopping = new AbortController();
    private readonly backoff: Backoff;

    constructor(
        private readonly client: HubClient,
        private readonly subscriptionId: string,
        private readonly keepNotices: boolean,
    ) {
        this.backoff = new Backoff(client.policy);
    }

    /** A cursor up to which everything was processed. Throws an earlier commit's failure that is for good. */
    offer(cursor: string): void {
        if (this.failure) throw this.failure;
        if (cursor === this.offered) return;
        this.offered = this.waiting = cursor;
        this.running ??= this.run();
    }

    /** Sends what waits, once, and waits two seconds at most. */
    async stop(): Promise<void> {
        this.stopping.abort();
        await within(lastWait, this.running);
    }

    private async run(): Promise<void> {
        while (this.waiting && !this.failure) {
            await pause(this.notBefore - performance.now(), this.stopping.signal);
            const last = this.stopping.signal.aborted;
            await this.send();
            if (last) break;
        }
        this.running = undefined;
    }

    private async send(): Promise<void> {
        const cursor = this.waiting;
        const { subscriptionId, keepNotices } = this;
        this.waiting = "";
        const version = this.client.keyVersion;
        try {
            await this.client.try(EventService.method.commitCursor, { cursor, subscriptionId, keepNotices });
        } catch (error) {
            if (!(error instanceof HubError)) throw error;
            // An expired cursor is let go: the stream says what that means, by a gap behind which cursors are good again.
            if (error.reason !== "CURSOR_EXPIRED") {
                await this.failed(cursor, version, error);
                return;
            }
        }
        this.backoff.succeeded();
        this.notBefore = performance.now() + this.client.policy.commitInterval;
    }

    private async failed(cursor: string, version: number, error: HubError): Promise<void> {
        if (!error.isReopenable && !(await this.client.hasNewerKey(version, error))) {
            this.failure = error;
            return;
        }
        this.waiting ||= cursor;
        this.notBefore = performance.now() + this.backoff.failed(error.retryAfter);
    }
}
