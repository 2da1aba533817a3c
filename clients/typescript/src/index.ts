/** The client of the Tickets integration hub; docs/delivery.md says what can be relied on. */
export { HubClient, type ClientOptions } from "./client.js";
export { HubError, type Violation } from "./errors.js";
export { defaultPolicy, type Notice, type Policy } from "./session.js";
export { Subscription, type SubscribeOptions } from "./subscription.js";
export { verifyWebhook, WebhookError } from "./webhook.js";
