// An integration in Node.js: shows on the terminal whatever its key lets it see, for as long as it runs.
//
//   npm ci
//   HUB_KEY=tkt_integration_... node integration.js [earliest | latest | <cursor>]
//
// What to look at: the loop at the end. The client (clients/typescript, which `npm ci` builds) opens broken streams again
// after the last event, and commits what was shown: without an argument the next run goes on there.
import { HubClient } from "@tickets/hub";
import { Scope } from "@tickets/hub/messages";

const client = new HubClient(process.env.HUB_ADDRESS || "127.0.0.1:50051", process.env.HUB_KEY || "", {
  insecure: process.env.HUB_INSECURE === "true",
});

function start(form) {
  if (!form) return { case: undefined };
  return form === "earliest" || form === "latest" ? { case: form, value: {} } : { case: "cursor", value: form };
}

// What cannot be printed is escaped, so that no reason steers the terminal.
function plain(text) {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);
}

function say(text) {
  console.log(`${new Date().toTimeString().slice(0, 8)}  ${plain(text)}`);
}

function show({ guildId, payload }) {
  const fields = Object.entries(payload.value ?? {}).filter(([name, value]) => !name.startsWith("$") && value !== "");
  const shown = fields.map(([name, value]) => `${name}=${value}`).join(" ");
  say(`guild ${guildId.padEnd(19)} ${(payload.case ?? "unknown").padEnd(18)} ${shown}`);
}

function names(scopes) {
  return scopes.map((scope) => Scope[scope] ?? scope).join(", ") || "none";
}

function tell(notice) {
  switch (notice.case) {
    case "ready":
      return say(`ready; scopes: ${names(notice.value.effectiveScopes)}`);
    case "grantsChanged": {
      const { added, removed, reason } = notice.value;
      return say(`granted: ${names(added)}; taken away: ${names(removed)} (${reason})`);
    }
    case "gap":
      return say("some history is not kept any more: fetch what matters by other means");
    case "goodbye":
      return say(`the hub says goodbye: ${notice.value.reason}`);
    case "reconnecting": {
      const { error, delay } = notice.value;
      return say(`the stream ended (${error.message}); again in ${(delay / 1_000).toFixed(1)} s`);
    }
  }
}

function forget({ userId, guildId }) {
  say(`${guildId ? `guild ${guildId}` : `user ${userId}`} is to be forgotten: nothing is kept here`);
}

const subscription = client.subscribe(
  { start: start(process.argv[2]) },
  { autoCommit: true, onNotice: tell, onErased: forget },
);
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => client.close());

try {
  for await (const event of subscription) show(event);
  if (subscription.cursor) say(`to go on from here: node integration.js ${subscription.cursor}`);
} catch (error) {
  console.error(`integration: ${plain(error.message)}`); // trying again would not help: a wrong key, a lost permission
  process.exitCode = 1;
}
await client.close();
