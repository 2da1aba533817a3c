package hub

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Violation is a field of the request that breaks a rule: its path ("event.guild_id") and what the rule wants.
type Violation struct {
	Field, Description string
}

// Error is a call to the hub that failed. errors.As finds it in what this package returns.
type Error struct {
	// Code is the gRPC status. codes.OK stands for a stream that the hub ended without an error.
	Code codes.Code
	// Reason is a name of the contract's ErrorReason without its prefix: "SCOPE_NOT_GRANTED". It is empty where the
	// failure is not the hub's word: no connection, a proxy between.
	Reason string
	// Message is a sentence for people.
	Message string
	// Metadata is what a program may want to know.
	Metadata map[string]string
	// RetryAfter is how long the hub asks to wait; nil where it does not say.
	RetryAfter *time.Duration
	// Violations are the fields that break a rule, of INVALID_REQUEST.
	Violations []Violation
	// EventIDs are the events of a failed emit. Whether they are stored is not known after Unavailable,
	// DeadlineExceeded, Canceled, Unknown and Internal: emit them again with these ids.
	EventIDs []string
}

// Error says it in a line: "UNAVAILABLE DRAINING: the hub is shutting down".
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", strings.TrimSpace(e.CodeName()+" "+e.Reason), e.Message)
}

// CodeName is the name of the status as the contract's documents write it: "PERMISSION_DENIED".
func (e *Error) CodeName() string { return code.Code_name[int32(e.Code)] }

// ReasonOf is the hub's reason for a failure, also of a call over Conn; empty for errors that are not the hub's.
func ReasonOf(err error) string {
	var failure *Error
	if errors.As(err, &failure) {
		return failure.Reason
	}
	return errorOf(err).Reason
}

func errorOf(err error) *Error { return errorOfStatus(status.Convert(err).Proto()) }

func errorOfStatus(reported *spb.Status) *Error {
	failure := &Error{Code: codes.Code(reported.GetCode()), Message: reported.GetMessage()}
	for _, detail := range status.FromProto(reported).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failure.Reason, failure.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.RetryInfo:
			delay := detail.GetRetryDelay().AsDuration()
			failure.RetryAfter = &delay
		case *errdetails.BadRequest:
			for _, field := range detail.GetFieldViolations() {
				failure.Violations = append(failure.Violations, Violation{field.GetField(), field.GetDescription()})
			}
		}
	}
	return failure
}

// of is the same failure, as one of these events.
func (e *Error) of(ids ...string) *Error {
	failure := *e
	failure.EventIDs = ids
	return &failure
}

// renamed is the failure with another name for a field: a batch's "events[3]" is "event" to its caller.
func (e *Error) renamed(before, after string) *Error {
	failure := *e
	failure.Message = strings.ReplaceAll(e.Message, before+".", after+".")
	failure.Violations = nil
	for _, violation := range e.Violations {
		violation.Field = strings.Replace(violation.Field, before, after, 1)
		failure.Violations = append(failure.Violations, violation)
	}
	return &failure
}

// reopenable: opening the stream again may help.
func (e *Error) reopenable() bool {
	switch e.Code {
	case codes.OK, codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.Unavailable:
		return true
	default:
		return e.passes()
	}
}

// repeatable: the same call again, with the same event ids, may help.
func (e *Error) repeatable() bool {
	switch e.Code {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
		return true
	default:
		return e.passes()
	}
}

// passes: a limit was reached that passes. Without a reason it is gRPC's own, or a proxy's.
func (e *Error) passes() bool {
	return e.Code == codes.ResourceExhausted && (e.RetryAfter != nil || e.Reason == "")
}

func (e *Error) isKeyEnding() bool { return e.Reason == "KEY_EXPIRED" || e.Reason == "KEY_REVOKED" }
