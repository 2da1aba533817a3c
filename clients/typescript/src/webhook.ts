import { createHmac, timingSafeEqual } from "node:crypto";

/** Seconds that a request may be old, or ahead of this machine's clock. */
const tolerance = 300;

/** The request is not one of the hub's, or too old: answer it with 401. */
export class WebhookError extends Error {
    override readonly name = "WebhookError";
}

/**
 * Verifies what was posted to an endpoint, or throws a `WebhookError`; a `TypeError` where the secret was not copied completely.
 *
 * `headers` are those of Node's `http` or of `fetch`; `body` is the bytes as they came: what a parser made of them does not
 * verify; `now` is in milliseconds.
 */
export function verifyWebhook(
    headers: Headers | Record<string, string | string[] | undefined>,
    body: Uint8Array | string,
    secret: string,
    now = Date.now(),
): void {
    const encoded = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(secret)?.[1];
    if (encoded === undefined) {
        throw new TypeError(
            "the secret must be whsec_ and base64, as CreateEndpoint or RotateEndpointSecret showed it",
        );
    }
    const entries = headers instanceof Headers ? [...headers] : Object.entries(headers);
    const given = new Map(entries.map(([name, value]) => [name.toLowerCase(), String(value ?? "")]));
    const header = (name: string): string => {
        const value = given.get(name);
        if (!value) throw new WebhookError(`the header ${name} is missing`);
        return value;
    };
    const [id, time, signatures] = [header("webhook-id"), header("webhook-timestamp"), header("webhook-signature")];
    if (!/^\d{1,15}$/.test(time)) throw new WebhookError("webhook-timestamp is not a number of seconds");
    if (Math.abs(Math.floor(now / 1_000) - Number(time)) > tolerance) {
        throw new WebhookError("the request is too old, or this machine's clock is wrong");
    }
    const mac = createHmac("sha256", Buffer.from(encoded, "base64")).update(`${id}.${time}.`).update(body);
    const expected = Buffer.from(`v1,${mac.digest("base64")}`);
    const found = signatures.split(" ").map((signature) => Buffer.from(signature));
    if (!found.some((one) => one.length === expected.length && timingSafeEqual(one, expected))) {
        throw new WebhookError("no signature matches: wrong secret, or the body was changed");
    }
}
