// Why a call failed, beyond its status: the hub sends google.rpc.ErrorInfo and RetryInfo in the trailers (AIP-193).
'use strict';

const protobuf = require('protobufjs');

const { root } = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Box { string type_url = 1; bytes value = 2; }
  message Status { repeated Box details = 3; }
  message ErrorInfo { string reason = 1; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
`, { keepCase: true });

function milliseconds(duration) {
  return duration ? Number(duration.seconds || 0) * 1000 + (duration.nanos || 0) / 1e6 : 0;
}

// {reason: '' where none is told, retryDelay: milliseconds, or null where trying again was not advised}
function read(status) {
  const told = { reason: '', retryDelay: null };
  const [details] = status.metadata.get('grpc-status-details-bin');
  if (!details) return told;
  for (const box of root.lookupType('google.rpc.Status').decode(details).details) {
    const name = box.type_url.split('/').pop();
    if (name === 'google.rpc.ErrorInfo') told.reason = root.lookupType(name).decode(box.value).reason;
    if (name === 'google.rpc.RetryInfo') told.retryDelay = milliseconds(root.lookupType(name).decode(box.value).retry_delay);
  }
  return told;
}

module.exports = { milliseconds, read };
