// A decision of an admin on an integration: the reason, and what the hub says to it.

import { call } from "./api.js";
import { el } from "./dom.js";

export class Decision {
  /** `one`: the integration as it was read; `why`: what the reason is for. */
  constructor(one, why, required, fail) {
    this.one = one;
    this.fail = fail;
    this.reason = el("textarea", { id: `${one.integration_id}-reason`, rows: 2, maxlength: 500, required });
    this.field = el("p", { class: "field" }, el("label", { for: this.reason.id, text: why }), this.reason);
    this.told = el("p", { class: "bad", role: "alert" });
  }

  /** Call a method of the contract; gives the integration as it is now, or null where nothing was changed. */
  async send(method, more = {}) {
    if (!this.reason.reportValidity()) return null;
    this.told.textContent = "";
    const { integration_id, etag } = this.one; // the etag: what was decided on is what was read
    try {
      return (await call(method, { integration_id, etag, reason: this.reason.value, ...more })).integration;
    } catch (error) {
      this.told.textContent = error.reason === "ETAG_MISMATCH" ? "It was changed since you read it: load this view again." : error.sentence;
      this.fail(error);
      return null;
    }
  }
}
