package hub

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tickets.example/hub/hubpb"
)

// Latest starts with the events that are accepted from now on.
func Latest() *hubpb.SubscribeRequest_Latest {
	return &hubpb.SubscribeRequest_Latest{Latest: &hubpb.Latest{}}
}

// Earliest starts with the oldest event that is kept and that the grants cover.
func Earliest() *hubpb.SubscribeRequest_Earliest {
	return &hubpb.SubscribeRequest_Earliest{Earliest: &hubpb.Earliest{}}
}

// Committed starts after what was last committed; without a commit the hub refuses it (SUBSCRIPTION_NOT_FOUND).
func Committed() *hubpb.SubscribeRequest_Committed {
	return &hubpb.SubscribeRequest_Committed{Committed: &hubpb.Committed{}}
}

// After starts after a cursor that was stored: Subscription.Cursor of an earlier run.
func After(cursor string) *hubpb.SubscribeRequest_Cursor {
	return &hubpb.SubscribeRequest_Cursor{Cursor: cursor}
}

// Since starts with the first event that was accepted at this time or later.
func Since(t time.Time) *hubpb.SubscribeRequest_Since {
	return &hubpb.SubscribeRequest_Since{Since: timestamppb.New(t)}
}

// SubscribeOption changes what a subscription does beside handing over events.
type SubscribeOption func(*Subscription)

// AutoCommit commits at the hub what was processed: a frame's cursor once the loop asks for the event after it.
func AutoCommit() SubscribeOption { return func(s *Subscription) { s.autoCommit = true } }

// OnNotice hears of what is neither an event nor an erasure: *hubpb.Ready, *hubpb.Heartbeat, *hubpb.GrantsChanged,
// *hubpb.Gap, *hubpb.Goodbye, and Reconnecting. It is called between events, by the goroutine that loops. Without it
// slog warns of a reconnect and a gap.
func OnNotice(hear func(notice any)) SubscribeOption {
	return func(s *Subscription) { s.onNotice = hear }
}

// OnErased hears of a user or a guild who is to be forgotten; once it has returned, commits confirm that nothing of
// them is kept. Without it slog warns, and automatic commits confirm no erasure.
func OnErased(forget func(*hubpb.Erased)) SubscribeOption {
	return func(s *Subscription) { s.onErased = forget }
}

// Subscription is the events of one subscription, for one goroutine at a time.
type Subscription struct {
	client     *Client
	session    session
	autoCommit bool
	onNotice   func(any)
	onErased   func(*hubpb.Erased)
	stream     grpc.ServerStreamingClient[hubpb.SubscribeResponse]
	cancel     context.CancelFunc // of the stream
	keyVersion int
}

// Subscribe makes a subscription; nothing is opened before Events is looped over. The request may be nil: then it is
// the subscription "default", with everything that the key may see, after what was committed.
func (c *Client) Subscribe(request *hubpb.SubscribeRequest, options ...SubscribeOption) *Subscription {
	if request == nil {
		request = &hubpb.SubscribeRequest{}
	}
	s := &Subscription{client: c, session: session{request: request, backoff: delays{policy: c.policy}}}
	for _, option := range options {
		option(s)
	}
	return s
}

// Cursor is after the last frame of which every event was handed over; empty before the first. Stored with the work
// that was done, and given to After in the next run, it resumes there.
func (s *Subscription) Cursor() string { return s.session.cursor }

// Events are the events, one after the other, for as long as it takes. A broken stream is opened again after the last
// event. The loop ends when ctx is done, when the client is closed, at a break, or after an error that reopening does
// not mend, which is an *Error; then a further loop would begin after Cursor.
func (s *Subscription) Events(ctx context.Context) iter.Seq2[*hubpb.Event, error] {
	return func(yield func(*hubpb.Event, error) bool) {
		ctx, cancel := s.client.bound(ctx)
		defer cancel()
		defer s.endStream()
		offer := func(string) error { return nil }
		if s.autoCommit {
			commits := s.client.startCommits(s.session.request.GetSubscriptionId(), s.onErased == nil)
			defer commits.stop()
			offer = commits.offer
		}
		for !s.isOver(ctx) {
			if event := s.session.take(); event != nil {
				if !yield(event, nil) {
					return
				}
				continue
			}
			err := offer(s.session.cursor)
			if err == nil {
				err = s.step(ctx)
			}
			if err != nil {
				if !s.isOver(ctx) {
					yield(nil, err)
				}
				return
			}
		}
	}
}

// isOver: the loop ends without an error. ctx follows the client's, but a moment later than the connection.
func (s *Subscription) isOver(ctx context.Context) bool {
	return ctx.Err() != nil || s.client.ctx.Err() != nil
}

// step reads one frame, or waits after the end of a stream; its error is for good.
func (s *Subscription) step(ctx context.Context) error {
	frame, failure := s.read(ctx)
	if failure == nil {
		if notice := s.session.received(frame); notice != nil {
			s.notify(notice)
		}
		return nil
	}
	s.endStream()
	if s.isOver(ctx) {
		return nil
	}
	delay, err := s.session.ended(failure, s.client.key.hasNewer(s.keyVersion, failure))
	if err != nil {
		return err
	}
	s.notify(Reconnecting{Err: failure, Delay: delay})
	wait(ctx, delay)
	return nil
}

// read is the next frame of the stream, which it opens where there is none. Only the time in here counts as silence of
// the hub, not that of a slow loop.
func (s *Subscription) read(ctx context.Context) (*hubpb.SubscribeResponse, *Error) {
	var request *hubpb.SubscribeRequest
	if s.stream == nil {
		request = s.session.open()
		ctx, s.cancel = context.WithCancel(ctx)
	}
	var silent atomic.Bool
	cancel := s.cancel
	watchdog := time.AfterFunc(s.session.patience, func() { silent.Store(true); cancel() })
	defer watchdog.Stop()
	frame, err := s.receive(ctx, request)
	switch {
	case err == nil:
		return frame, nil
	case silent.Load():
		return nil, s.session.silence()
	case errors.Is(err, io.EOF):
		return nil, &Error{Code: codes.OK, Message: "the hub ended the stream"}
	default:
		return nil, errorOf(err)
	}
}

func (s *Subscription) receive(ctx context.Context, request *hubpb.SubscribeRequest) (*hubpb.SubscribeResponse, error) {
	if request != nil {
		text, version := s.client.key.current()
		s.keyVersion = version
		stream, err := s.client.events.Subscribe(withKey(ctx, text), request)
		if err != nil {
			return nil, err
		}
		s.stream = stream
	}
	return s.stream.Recv()
}

func (s *Subscription) endStream() {
	if s.cancel != nil {
		s.cancel()
	}
	s.stream, s.cancel = nil, nil
}

func (s *Subscription) notify(notice any) {
	if erased, ok := notice.(*hubpb.Erased); ok {
		if s.onErased != nil {
			s.onErased(erased)
		} else {
			slog.Warn("hub: somebody is to be forgotten: handle it with OnErased", "erasure", erased.GetErasureId())
		}
		return
	}
	if s.onNotice != nil {
		s.onNotice(notice)
		return
	}
	switch notice := notice.(type) {
	case Reconnecting:
		slog.Warn("hub: the stream broke and is opened again", "delay", notice.Delay, "error", notice.Err)
	case *hubpb.Gap:
		slog.Warn("hub: events are not kept any more", "from", notice.GetFromTime().AsTime(), "to", notice.GetToTime().AsTime())
	}
}

// commits commits for one subscription in a goroutine, so that delivery never waits: one call at a time, not too
// often, the newest cursor wins.
type commits struct {
	client    *Client
	request   hubpb.CommitCursorRequest
	mu        sync.Mutex
	offered   string
	waiting   string
	failure   error
	wake      chan struct{} // holds one
	stopping  context.CancelFunc
	done      chan struct{}
	delays    delays
	notBefore time.Time
}

func (c *Client) startCommits(subscriptionID string, keepNotices bool) *commits {
	k := &commits{client: c, wake: make(chan struct{}, 1), done: make(chan struct{}), delays: delays{policy: c.policy}}
	k.request.SubscriptionId, k.request.KeepNotices = subscriptionID, keepNotices
	ctx, cancel := context.WithCancel(c.ctx)
	k.stopping = cancel
	c.committing.Add(1)
	go k.run(ctx)
	return k
}

// offer gives a cursor up to which everything was processed; its error is an earlier commit's that cannot succeed.
func (k *commits) offer(cursor string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if cursor != k.offered {
		k.offered, k.waiting = cursor, cursor
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	return k.failure
}

// stop sends what waits, once, and waits two seconds at most.
func (k *commits) stop() {
	k.stopping()
	<-k.done
}

func (k *commits) run(ctx context.Context) {
	defer k.client.committing.Done()
	defer close(k.done)
	calls, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWait, cut) })()
	for isLast := false; !isLast; {
		select {
		case <-ctx.Done():
		case <-k.wake:
			wait(ctx, time.Until(k.notBefore))
		}
		isLast = ctx.Err() != nil // before the look: what was offered during a call is sent after it
		if !k.send(calls) {
			return
		}
	}
}

// send commits what waits; false: no other commit can succeed.
func (k *commits) send(ctx context.Context) bool {
	k.mu.Lock()
	cursor := k.waiting
	k.waiting = ""
	k.mu.Unlock()
	if cursor == "" {
		return true
	}
	k.request.Cursor = cursor
	version, err := k.client.try(ctx, func(ctx context.Context) error {
		_, err := k.client.events.CommitCursor(ctx, &k.request)
		return err
	}, k.client.policy.TryTimeout)
	return k.settle(cursor, version, err)
}

func (k *commits) settle(cursor string, version int, err error) bool {
	failure := errorOf(err)
	// An expired cursor is let go: the stream says what that means, by a gap behind which cursors are good again.
	if err == nil || failure.Reason == "CURSOR_EXPIRED" {
		k.delays.succeeded()
		k.notBefore = time.Now().Add(k.client.policy.CommitInterval)
		return true
	}
	newerKey := k.client.key.hasNewer(version, failure)
	k.mu.Lock()
	defer k.mu.Unlock()
	if !newerKey && !failure.reopenable() {
		k.failure = failure
		return false
	}
	if k.waiting == "" {
		k.waiting = cursor
	}
	k.notBefore = time.Now().Add(k.delays.failed(failure.RetryAfter))
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return true
}
