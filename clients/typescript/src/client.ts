import { setMaxListeners } from "node:events";
import {
    create,
    fromBinary,
    toBinary,
    type DescMessage,
    type DescMethod,
    type DescMethodUnary,
    type MessageInitShape,
    type MessageShape,
} from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Client, credentials, Metadata, type ChannelCredentials, type ClientReadableStream } from "@grpc/grpc-js";
import { Emitter, maxBatch } from "./emitter.js";
import { closedError, HubError } from "./errors.js";
import { DeveloperService } from "./gen/tickets/hub/v1/developer_service_pb.js";
import type { EventSchema } from "./gen/tickets/hub/v1/event_pb.js";
import {
    EventService,
    type EmitEventResponse,
    type SubscribeRequest,
    type SubscribeRequestSchema,
    type SubscribeResponse,
} from "./gen/tickets/hub/v1/event_service_pb.js";
import { Backoff, defaultPolicy, type Policy } from "./session.js";
import { Subscription, type SubscribeOptions } from "./subscription.js";
import { lastWait, pause } from "./time.js";

const loopback = /^(unix:|((ipv[46]|dns):)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$)/;

const channelOptions = {
    // A peer that is gone without a word is noticed after 25 s.
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 5_000,
    // The channel's own backoff grows to two minutes: longer than ours, it would fail our attempts without trying.
    "grpc.initial_reconnect_backoff_ms": 250,
    "grpc.max_reconnect_backoff_ms": 5_000,
    // gRPC sends even what goes to this machine to the proxy of the environment, the key with it.
    "grpc.enable_http_proxy": 0,
    "grpc.enable_retries": 0,
};

export interface ClientOptions {
    /** Timeouts and delays that differ from `defaultPolicy`. */
    policy?: Partial<Policy>;
    /** How the connection is secured: `credentials.createSsl` of grpc-js, for an authority of your own or mTLS. */
    credentials?: ChannelCredentials;
    /** Send the key in plaintext to another machine: everyone on the way can read it. */
    insecure?: boolean;
}

/** A connection to the hub with one key. It connects at the first call. */
export class HubClient {
    readonly policy: Policy;
    private readonly grpc: Client;
    private readonly closing = new AbortController();
    private readonly ends = new Set<() => Promise<void>>();
    private readonly emitter: Emitter;
    #key: string;
    #keyVersion = 0;
    #rotation: Promise<unknown> = Promise.resolve();
    #ending: Promise<string[]> | undefined;

    /** `target`: "127.0.0.1:50051". To another machine it uses TLS, to this one plaintext, unless an option says otherwise. */
    constructor(target: string, key: string, options: ClientOptions = {}) {
        this.#key = checked(key);
        this.policy = { ...defaultPolicy, ...options.policy };
        const plain = options.insecure === true || loopback.test(target);
        const secured = options.credentials ?? (plain ? credentials.createInsecure() : credentials.createSsl());
        this.grpc = new Client(target, secured, channelOptions);
        this.emitter = new Emitter(this);
        setMaxListeners(0, this.closed); // each call under way listens: no leak that Node should warn of
    }

    /** Aborted once the client is closed. */
    get closed(): AbortSignal {
        return this.closing.signal;
    }

    /** Which key calls carry: it grows with each replacement. */
    get keyVersion(): number {
        return this.#keyVersion;
    }

    /**
     * The events that the key may see, as an endless async iterable. The request is the contract's; without one it is the
     * subscription "default", after what was committed.
     */
    subscribe(
        request: MessageInitShape<typeof SubscribeRequestSchema> = {},
        options: SubscribeOptions = {},
    ): Subscription {
        const subscription = new Subscription(this, request, options);
        const end = () => subscription.close();
        this.ends.add(end);
        subscription.onEnd(() => this.ends.delete(end));
        if (this.#ending) void subscription.close();
        return subscription;
    }

    /**
     * Stores an event, and resolves once it is on the hub's disk. An event without an id gets one, so that emitting it again
     * after an error is safe. What is emitted while a call is under way shares the next one; the order is that of the calls.
     */
    async emit(event: MessageInitShape<typeof EventSchema>): Promise<EmitEventResponse> {
        const [stored] = await this.emitter.emit([event], false);
        return stored as EmitEventResponse;
    }

    /** Stores events in this order, up to 1,000 a call, each call as a whole or not at all. */
    async emitBatch(events: MessageInitShape<typeof EventSchema>[]): Promise<EmitEventResponse[]> {
        const results: EmitEventResponse[] = [];
        for (let first = 0; first < events.length; first += maxBatch) {
            results.push(...(await this.emitter.emit(events.slice(first, first + maxBatch), true)));
        }
        return results;
    }

    /** Commits a cursor of a subscription. It never moves backwards. */
    async commit(cursor: string, subscriptionId = ""): Promise<void> {
        await this.call(EventService.method.commitCursor, { cursor, subscriptionId });
    }

    /** Uses another key of the same integration or bot from the next call on. */
    useKey(key: string): void {
        this.#key = checked(key);
        this.#keyVersion += 1;
    }

    /** Makes a new key for this integration, uses it from now on, and returns it: store it for the next start. */
    rotateKey(overlap?: number): Promise<string> {
        const request = overlap === undefined ? {} : { overlap: durationFromMs(overlap) };
        const rotation = this.#rotation.then(async () => {
            const reply = await this.repeat(DeveloperService.method.rotateOwnKey, request, false);
            const secret = reply.key?.secret ?? "";
            this.useKey(secret);
            return secret;
        });
        this.#rotation = rotation.catch(() => undefined);
        return rotation;
    }

    /** Whether a call failed because its key has ended, and there is a newer one by now. It waits for a rotation. */
    async hasNewerKey(version: number, error: HubError): Promise<boolean> {
        if (!error.isKeyEnding) return false;
        await this.#rotation;
        return this.#keyVersion !== version;
    }

    /**
     * Sends what waits to be emitted, ends all subscriptions, sends what waits to be committed, each for two seconds at most,
     * and disconnects. Resolves to the ids of the events that were on their way then: whether those are stored is not known.
     * Closing again waits for the same end.
     */
    close(): Promise<string[]> {
        return (this.#ending ??= this.end());
    }

    private async end(): Promise<string[]> {
        const unknown = await this.emitter.finish(lastWait);
        await Promise.all([...this.ends].map((end) => end()));
        this.closing.abort();
        this.grpc.close();
        return unknown;
    }

    /** Calls any idempotent method of the contract until it succeeds, fails for good, or its time is over. */
    call<I extends DescMessage, O extends DescMessage>(
        method: DescMethodUnary<I, O>,
        request: MessageInitShape<I>,
    ): Promise<MessageShape<O>> {
        return this.repeat(method, request, true);
    }

    /** Opens a stream. */
    openStream(request: SubscribeRequest): ClientReadableStream<SubscribeResponse> {
        const { input, output } = EventService.method.subscribe;
        return this.grpc.makeServerStreamRequest(
            path(EventService.method.subscribe),
            (message: SubscribeRequest) => Buffer.from(toBinary(input, message)),
            (bytes) => fromBinary(output, bytes),
            request,
            this.metadata(),
        );
    }

    /** Makes one try of a call, `timeout` milliseconds at most. */
    try<I extends DescMessage, O extends DescMessage>(
        method: DescMethodUnary<I, O>,
        request: MessageInitShape<I>,
        timeout = this.policy.tryTimeout,
    ): Promise<MessageShape<O>> {
        return new Promise((resolve, reject) => {
            if (this.closed.aborted) {
                reject(closedError());
                return;
            }
            const call = this.grpc.makeUnaryRequest(
                path(method),
                (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
                (bytes) => fromBinary(method.output, bytes),
                create(method.input, request),
                this.metadata(),
                { deadline: Date.now() + timeout },
                (error, answer) => {
                    this.closed.removeEventListener("abort", cancel);
                    if (answer) resolve(answer);
                    else reject(this.closed.aborted ? closedError() : error ? HubError.from(error) : closedError());
                },
            );
            const cancel = () => {
                call.cancel();
            };
            this.closed.addEventListener("abort", cancel);
        });
    }

    private async repeat<I extends DescMessage, O extends DescMessage>(
        method: DescMethodUnary<I, O>,
        request: MessageInitShape<I>,
        mayWaitForKey: boolean,
    ): Promise<MessageShape<O>> {
        const end = performance.now() + this.policy.callTimeout;
        const backoff = new Backoff(this.policy);
        for (;;) {
            const version = this.#keyVersion;
            try {
                const left = Math.max(1, end - performance.now());
                return await this.try(method, request, Math.min(this.policy.tryTimeout, left));
            } catch (error) {
                if (!(error instanceof HubError) || this.closed.aborted) throw error;
                const newerKey = mayWaitForKey && (await this.hasNewerKey(version, error));
                if (!newerKey && !error.isRepeatable) throw error;
                const delay = backoff.failed(newerKey ? 0 : error.retryAfter);
                if (performance.now() + delay >= end) throw error;
                await pause(delay, this.closed);
            }
        }
    }

    private metadata(): Metadata {
        const metadata = new Metadata();
        metadata.set("authorization", `Bearer ${this.#key}`);
        return metadata;
    }
}

function path(method: DescMethod): string {
    return `/${method.parent.typeName}/${method.name}`;
}

function checked(key: string): string {
    if (!/^[!-~]+$/.test(key)) {
        throw new TypeError("the key is empty, or holds spaces, line breaks or other characters that no key has");
    }
    return key;
}
