/** The client as a program that speaks the line protocol of conformance/README.md. It is not published. */
import { createInterface } from "node:readline";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
    HubClient,
    HubError,
    verifyWebhook,
    WebhookError,
    type Notice,
    type Policy,
    type Subscription,
} from "./index.js";
import { OnExpiredCursor, Scope } from "./messages.js";

interface Command {
    do: string;
    target: string;
    key: string;
    policy: Record<string, number>;
    subscription_id?: string;
    start?: string | { cursor: string };
    on_expired_cursor?: string;
    scopes?: string[];
    guild_ids?: string[];
    max_batch_size?: number;
    heartbeat_interval?: number;
    linger?: number;
    auto_commit?: boolean;
    erasures?: boolean | "slow";
    ids: string[];
    headers: Record<string, string>;
    body: string;
    secret: string;
    now: number;
}

let client: HubClient;
let subscription: Subscription;
let deleted: () => void;
const underWay = new Set<Promise<void>>();

const commands: Record<string, (command: Command) => Promise<void> | void> = {
    connect({ target, key, policy }) {
        const camel = (name: string) => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
        const entries = Object.entries(policy).map(([name, seconds]) => [camel(name), seconds * 1_000]);
        client = new HubClient(target, key, { policy: Object.fromEntries(entries) as Partial<Policy> });
    },
    subscribe(command) {
        const { start, heartbeat_interval: interval, linger } = command;
        subscription = client.subscribe(
            {
                subscriptionId: command.subscription_id ?? "",
                guildIds: command.guild_ids ?? [],
                maxBatchSize: command.max_batch_size ?? 0,
                scopes: (command.scopes ?? []).map((name) => Scope[name.toUpperCase() as keyof typeof Scope]),
                onExpiredCursor:
                    command.on_expired_cursor === "earliest" ? OnExpiredCursor.EARLIEST : OnExpiredCursor.UNSPECIFIED,
                ...(interval ? { heartbeatInterval: durationFromMs(interval * 1_000) } : {}),
                ...(linger ? { linger: durationFromMs(linger * 1_000) } : {}),
                ...(start === "earliest" ? { start: { case: "earliest", value: {} } } : {}),
                ...(typeof start === "object" ? { start: { case: "cursor", value: start.cursor } } : {}),
            },
            {
                autoCommit: command.auto_commit ?? false,
                onNotice: tell,
                ...(command.erasures === false
                    ? {}
                    : {
                          onErased: async () => {
                              write({ notice: "erased" });
                              if (command.erasures === "slow") await new Promise<void>((done) => (deleted = done));
                          },
                      }),
            },
        );
    },
    async next() {
        const of = subscription;
        try {
            const { done, value } = await of.next();
            write(done ? { reply: "next", end: true } : { reply: "next", event: value.id, cursor: of.cursor });
        } catch (error) {
            write({ reply: "next", error: failure(error) });
        }
    },
    deleted() {
        deleted();
    },
    async end() {
        await subscription.close();
        write({ reply: "end" });
    },
    async emit({ ids }) {
        await Promise.all(ids.map(emitOne));
    },
    async emit_batch({ ids }) {
        try {
            const stored = await client.emitBatch(ids.map(eventOf));
            write({ reply: "emit_batch", stored: stored.map(({ eventId }) => eventId) });
        } catch (error) {
            write({ reply: "emit_batch", error: failure(error) });
        }
    },
    use_key({ key }) {
        client.useKey(key);
        write({ reply: "use_key" });
    },
    async rotate_key() {
        write({ reply: "rotate_key", key: await client.rotateKey() });
    },
    async close() {
        await client.close();
        await Promise.allSettled(underWay); // what they still say belongs to this script, not to the next
        underWay.clear();
        write({ reply: "close" });
    },
    verify_webhook({ headers, body, secret, now }) {
        write({ reply: "verify_webhook", result: verdict(headers, Buffer.from(body, "base64"), secret, now) });
    },
};

function eventOf(id: string) {
    return { id, guildId: "41", payload: { case: "ticketClosed" as const, value: {} } };
}

async function emitOne(id: string): Promise<void> {
    try {
        write({ reply: "emit", id, stored: (await client.emit(eventOf(id))).eventId });
    } catch (error) {
        write({ reply: "emit", id, error: failure(error) });
    }
}

function verdict(headers: Record<string, string>, body: Buffer, secret: string, now: number): string {
    try {
        verifyWebhook(headers, body, secret, now * 1_000);
        return "verified";
    } catch (error) {
        return error instanceof WebhookError ? "refused" : "no secret";
    }
}

function tell(notice: Notice): void {
    if (notice.case === "reconnecting") {
        const { error, delay } = notice.value;
        write({ notice: notice.case, code: error.code, reason: error.reason, delay: delay / 1_000 });
    } else {
        write({ notice: notice.case.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`) });
    }
}

function failure(error: unknown): object {
    if (!(error instanceof HubError)) throw error;
    const { code, reason, text, metadata, violations, eventIds } = error;
    return { code, reason, message: text, metadata, violations, event_ids: eventIds };
}

function write(line: object): void {
    process.stdout.write(`${JSON.stringify(line)}\n`);
}

for await (const text of createInterface({ input: process.stdin })) {
    const command = JSON.parse(text) as Command;
    const work = commands[command.do]?.(command);
    if (work && command.do !== "close") underWay.add(work);
}
