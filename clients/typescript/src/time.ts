import { durationMs, type Duration } from "@bufbuild/protobuf/wkt";

/** The longest that a timer of Node.js can wait: more fires at once. */
const longest = 2 ** 31 - 1;

/** How long the end of a client or of a subscription waits for what is still to be sent. */
export const lastWait = 2_000;

/** A duration in milliseconds; 0 where there is none. */
export function milliseconds(duration: Duration | undefined): number {
    return duration ? durationMs(duration) : 0;
}

/** Calls back after some milliseconds, unless it is cleared before. */
export function timer(ms: number, callback: () => void): NodeJS.Timeout {
    return setTimeout(callback, Math.min(Math.max(ms, 0), longest));
}

/** Waits for a promise, some milliseconds at most. */
export async function within(ms: number, promise: Promise<unknown> | undefined): Promise<void> {
    const done = new AbortController();
    await Promise.race([promise, pause(ms, done.signal)]);
    done.abort();
}

/** Waits some milliseconds, or until the signal. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
        if (signal.aborted) {
            resolve();
            return;
        }
        const done = () => {
            clearTimeout(waiting);
            signal.removeEventListener("abort", done);
            resolve();
        };
        const waiting = timer(ms, done);
        signal.addEventListener("abort", done);
    });
}
