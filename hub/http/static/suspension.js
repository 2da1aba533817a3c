// Suspending an integration, and resuming it.

import { Decision } from "./decision.js";
import { el } from "./dom.js";

const MEANWHILE = "What happens meanwhile is delivered afterwards, as far back as events are kept.";
const CHANGES = {
  INTEGRATION_STATE_ACTIVE: {
    method: "AdminService/SuspendIntegration",
    effect: `Its streams end, and its endpoint gets nothing. ${MEANWHILE}`,
    why: "Reason: its developer sees it",
    required: true,
    button: "Suspend",
    done: "It is suspended; its streams have ended.",
  },
  INTEGRATION_STATE_SUSPENDED: {
    method: "AdminService/ResumeIntegration",
    effect: `It may stream again. ${MEANWHILE}`,
    why: "Reason, where there is one: its developer sees it",
    required: false,
    button: "Resume",
    done: "It is active again.",
  },
};

/** The form for it, or null where neither is possible; `changed` takes the integration as it is then, and a sentence. */
export function suspension(one, changed, fail) {
  const change = CHANGES[one.state];
  if (!change) return null;
  const decision = new Decision(one, change.why, change.required, fail);
  const button = el("button", { class: "quiet", text: change.button });
  const form = el("form", { class: "decision" }, el("p", { class: "soft", text: change.effect }), decision.field, decision.told, button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    const after = await decision.send(change.method);
    if (after) changed(after, change.done);
    else button.disabled = false;
  });
  return form;
}
