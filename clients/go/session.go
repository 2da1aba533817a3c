package hub

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"tickets.example/hub/hubpb"
)

// Policy has the timeouts and delays of a client.
type Policy struct {
	// FirstDelay is about how long to wait after the first failure; it doubles with each further one, up to MaxDelay.
	FirstDelay, MaxDelay time.Duration
	// OpenTimeout is how long the first frame of a stream may take.
	OpenTimeout time.Duration
	// Slack: a stream is dead after two heartbeat intervals and this without a frame.
	Slack time.Duration
	// GoodbyeTimeout is how long the end of a stream may take after it was announced.
	GoodbyeTimeout time.Duration
	// CallTimeout is how long a call may take with all its repetitions, TryTimeout how long one of them may.
	CallTimeout, TryTimeout time.Duration
	// CommitInterval: automatic commits come at most this often.
	CommitInterval time.Duration
}

// DefaultPolicy is what a client has unless WithPolicy says otherwise.
func DefaultPolicy() Policy {
	return Policy{
		FirstDelay: 250 * time.Millisecond, MaxDelay: 30 * time.Second,
		OpenTimeout: 20 * time.Second, Slack: time.Second, GoodbyeTimeout: 5 * time.Second,
		CallTimeout: 30 * time.Second, TryTimeout: 10 * time.Second, CommitInterval: time.Second,
	}
}

// Reconnecting is the notice that a stream broke with Err and is opened again after Delay.
type Reconnecting struct {
	Err   *Error
	Delay time.Duration
}

// delays are waits that grow with each failure in a row, between half and the whole by chance.
type delays struct {
	policy   Policy
	failures int
}

func (b *delays) succeeded() { b.failures = 0 }

// failed is the delay after one more failure: at least what the hub asked for, and exactly that after the first one.
func (b *delays) failed(asked *time.Duration) time.Duration {
	grown := b.policy.FirstDelay << min(b.failures, 20)
	delay := time.Duration(float64(min(grown, b.policy.MaxDelay)) * (0.5 + rand.Float64()/2))
	first := b.failures == 0
	b.failures++
	switch {
	case asked == nil:
		return delay
	case first:
		return *asked
	default:
		return max(*asked, delay)
	}
}

// session is one subscription across as many streams as it takes. It does no I/O: the subscription drives it.
type session struct {
	request     *hubpb.SubscribeRequest
	backoff     delays
	events      []*hubpb.Event
	frameCursor string
	cursor      string        // after the last frame of which every event was handed over
	patience    time.Duration // without a frame for this long the stream is dead
	ready       bool
	goodbye     *hubpb.Goodbye
}

// open begins another stream: the caller's request, after the cursor once there is one.
func (s *session) open() *hubpb.SubscribeRequest {
	s.ready, s.goodbye, s.patience = false, nil, s.backoff.policy.OpenTimeout
	request := proto.CloneOf(s.request)
	if s.cursor != "" {
		request.Start = After(s.cursor)
	}
	return request
}

// received keeps a frame's events for take, and returns its notice, or nil.
func (s *session) received(frame *hubpb.SubscribeResponse) any {
	s.events = append(s.events, frame.GetEvents()...)
	s.frameCursor = frame.GetCursor()
	if len(s.events) == 0 {
		s.finishFrame()
	}
	if interval := frame.GetReady().GetHeartbeatInterval().AsDuration(); interval > 0 {
		s.patience = 2*interval + s.backoff.policy.Slack
	}
	if goodbye := frame.GetGoodbye(); goodbye != nil {
		s.goodbye, s.patience = goodbye, s.backoff.policy.GoodbyeTimeout
	}
	if s.ready && s.goodbye == nil {
		s.backoff.succeeded() // a frame after ready; ready and a farewell in a circle prove nothing
	}
	s.ready = s.ready || frame.GetReady() != nil
	return noticeOf(frame.ProtoReflect())
}

func noticeOf(frame protoreflect.Message) any {
	field := frame.WhichOneof(frame.Descriptor().Oneofs().ByName("notice"))
	if field == nil {
		return nil
	}
	return frame.Get(field).Message().Interface()
}

// take is the next event to hand over; nil: there is none until another frame comes.
func (s *session) take() *hubpb.Event {
	if len(s.events) == 0 {
		return nil
	}
	event := s.events[0]
	s.events = s.events[1:]
	if len(s.events) == 0 {
		s.finishFrame()
	}
	return event
}

func (s *session) finishFrame() {
	if s.frameCursor != "" {
		s.cursor = s.frameCursor
	}
}

// ended says when to open the next stream; an error: that would not help.
func (s *session) ended(failure *Error, newerKey bool) (time.Duration, error) {
	if newerKey && failure.isKeyEnding() {
		return s.backoff.failed(new(time.Duration)), nil
	}
	if !failure.reopenable() {
		return 0, failure
	}
	asked := failure.RetryAfter
	if s.goodbye != nil {
		if !s.goodbye.GetReconnect() {
			message := s.goodbye.GetReason()
			if message == "" {
				message = failure.Message
			}
			return 0, &Error{Code: codes.Canceled, Reason: failure.Reason, Message: message}
		}
		delay := s.goodbye.GetRetryDelay().AsDuration()
		asked = &delay
	}
	return s.backoff.failed(asked), nil
}

func (s *session) silence() *Error {
	return &Error{Code: codes.DeadlineExceeded, Message: fmt.Sprintf("no frame for %s", s.patience)}
}
