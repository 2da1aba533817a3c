// Calls of the hub. The key is in this module's memory and nowhere else: no storage, no URL, no cookie.

let key = "";

const TIMEOUT = 10_000;

/** What the hub, or the way to it, refuses. */
export class Refused extends Error {
  constructor(status, reason, message) {
    super(message);
    this.status = status;
    this.reason = reason;
  }

  /** Whether the key opens nothing (any more): nobody is signed in then. */
  get endsSession() {
    return this.status === 401 || (this.status === 403 && this.reason === "ROLE_NOT_ALLOWED");
  }

  /** What is refused, for people. */
  get sentence() {
    if (this.reason === "ROLE_NOT_ALLOWED") return "This key is not an admin’s.";
    return `${this.message.charAt(0).toUpperCase()}${this.message.slice(1)}.`.replace(/\.\.$/, ".");
  }
}

/** Use a key for the calls from now on; "" forgets it. */
export function useKey(text) {
  key = text;
}

/** Call a method of the contract, "AdminService/GetIntegration"; Refused says why not. */
export async function call(method, request = {}) {
  let response;
  let body;
  try {
    response = await fetch(`/console/api/${method}`, {
      method: "POST",
      headers: { "Authorization": `Bearer ${key}`, "Content-Type": "application/json" },
      body: JSON.stringify(request),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(TIMEOUT),
    });
    body = await response.text();
  } catch {
    throw new Refused(0, "AWAY", "the hub does not answer");
  }
  if (response.ok) return JSON.parse(body);
  throw refusal(response.status, body);
}

function refusal(status, body) {
  try {
    const { error } = JSON.parse(body);
    return new Refused(status, error.reason, error.message);
  } catch {
    return new Refused(status, "", body.slice(0, 300));
  }
}
