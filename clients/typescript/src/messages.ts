/** The contract's messages, services and enums, as protobuf-es has them. */
export * from "./gen/tickets/hub/v1/admin_service_pb.js";
export * from "./gen/tickets/hub/v1/developer_service_pb.js";
export * from "./gen/tickets/hub/v1/directory_service_pb.js";
export * from "./gen/tickets/hub/v1/errors_pb.js";
export * from "./gen/tickets/hub/v1/event_pb.js";
export * from "./gen/tickets/hub/v1/event_service_pb.js";
export * from "./gen/tickets/hub/v1/hub_status_pb.js";
export * from "./gen/tickets/hub/v1/integration_pb.js";
export * from "./gen/tickets/hub/v1/permissions_pb.js";
export * from "./gen/tickets/hub/v1/privacy_service_pb.js";
export * from "./gen/tickets/hub/v1/webhook_service_pb.js";
