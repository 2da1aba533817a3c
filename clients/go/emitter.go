package hub

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"tickets.example/hub/hubpb"
)

const (
	maxBatch     = 1_000      // events in one call: a rule of the contract
	maxCallBytes = 256 * 1024 // bytes of events in a call that several callers share

	maxWaiting      = 1_000           // events that wait; then EmitAsync waits, too
	maxWaitingBytes = 4 * 1024 * 1024 // and their bytes
)

// Emission is an event on its way.
type Emission struct {
	emitter *emitter
	events  []*hubpb.Event
	isList  bool  // of EmitBatch: stored whole or not at all
	isAlone bool  // in a call of its own
	size    int   // bytes
	room    int64 // what it takes of the room for waiting events
	since   time.Time
	done    chan struct{}
	results []*hubpb.EmitEventResponse
	err     error
}

// Get waits until the event is stored, or was refused. If ctx is done first the event is withdrawn, unless it was sent
// already.
func (e *Emission) Get(ctx context.Context) (*hubpb.EmitEventResponse, error) {
	results, err := e.wait(ctx)
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

func (e *Emission) wait(ctx context.Context) ([]*hubpb.EmitEventResponse, error) {
	select {
	case <-e.done:
		return e.results, e.err
	case <-ctx.Done():
		e.emitter.withdraw(e)
		return nil, ctx.Err()
	}
}

func (e *Emission) finish(results []*hubpb.EmitEventResponse, failure *Error) {
	e.results = results
	if failure != nil {
		e.err = failure.of(e.ids()...)
	}
	close(e.done)
}

func (e *Emission) ids() []string {
	ids := make([]string, len(e.events))
	for i, event := range e.events {
		ids[i] = event.GetId()
	}
	return ids
}

// Emit stores an event, and returns once it is on the hub's disk. Where the event has no id it gets one, so that
// emitting it again after an error is safe. What is emitted while a call is under way shares the next one.
func (c *Client) Emit(ctx context.Context, event *hubpb.Event) (*hubpb.EmitEventResponse, error) {
	emission, err := c.emitter.enter(ctx, []*hubpb.Event{event}, false)
	if err != nil {
		return nil, err
	}
	return emission.Get(ctx)
}

// EmitAsync is Emit without the wait: events are sent in the order of these calls. It does wait while 1,000 events, or 4 MiB
// of them, are ahead. Do not change the event afterwards.
func (c *Client) EmitAsync(event *hubpb.Event) *Emission {
	emission, _ := c.emitter.enter(context.Background(), []*hubpb.Event{event}, false) // an error would be of the context
	return emission
}

// EmitBatch stores events in this order, up to 1,000 a call, each call as a whole or not at all.
func (c *Client) EmitBatch(ctx context.Context, events []*hubpb.Event) ([]*hubpb.EmitEventResponse, error) {
	var results []*hubpb.EmitEventResponse
	for batch := range slices.Chunk(events, maxBatch) {
		emission, err := c.emitter.enter(ctx, batch, true)
		if err != nil {
			return results, err
		}
		stored, err := emission.wait(ctx)
		if err != nil {
			return results, err
		}
		results = append(results, stored...)
	}
	return results, nil
}

// emitter sends emissions in their order, one call at a time, so that none overtakes one that has to be sent again.
type emitter struct {
	client   *Client
	room     *semaphore.Weighted // in bytes, for waiting events; each takes a thousandth at least
	mu       sync.Mutex
	waiting  []*Emission
	underWay []*Emission
	sending  bool
	closed   bool
	idle     chan struct{} // closed while nothing waits and nothing is under way
}

func (e *emitter) init(client *Client) {
	e.client, e.idle, e.room = client, make(chan struct{}), semaphore.NewWeighted(maxWaitingBytes)
	close(e.idle)
}

// enter adds events to those that wait, once there is room for them. An error is that of ctx: they were not added.
func (e *emitter) enter(ctx context.Context, events []*hubpb.Event, isList bool) (*Emission, error) {
	for _, event := range events {
		if event.GetId() == "" {
			event.Id = newEventID(time.Now())
		}
	}
	emission := &Emission{emitter: e, events: events, isList: isList, isAlone: isList, since: time.Now(), done: make(chan struct{})}
	for _, event := range events {
		encoded, err := proto.Marshal(event)
		if err != nil { // it would fail the events that share its call
			emission.finish(nil, &Error{Code: codes.InvalidArgument, Message: err.Error()})
			return emission, nil
		}
		emission.size += len(encoded)
	}
	emission.room = min(max(int64(emission.size), int64(len(events))*maxWaitingBytes/maxWaiting), maxWaitingBytes)
	if err := e.room.Acquire(ctx, emission.room); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		e.leave(emission)
		emission.finish(nil, errClose)
		return emission, nil
	}
	e.waiting = append(e.waiting, emission)
	if !e.sending {
		e.sending, e.idle = true, make(chan struct{})
		go e.run()
	}
	return emission, nil
}

// leave gives the room of emissions that no longer wait to others. Those that wait again, alone, take none.
func (e *emitter) leave(emissions ...*Emission) {
	for _, emission := range emissions {
		e.room.Release(emission.room)
		emission.room = 0
	}
}

// finish refuses new events, waits for the earlier ones, and returns the ids of those that are still under way.
func (e *emitter) finish(patience time.Duration) []string {
	e.mu.Lock()
	e.closed = true
	idle := e.idle
	e.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(patience):
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leave(e.waiting...)
	for _, emission := range e.waiting {
		emission.finish(nil, errClose)
	}
	e.waiting = nil
	var unknown []string
	for _, emission := range e.underWay {
		unknown = append(unknown, emission.ids()...)
	}
	return unknown
}

func (e *emitter) withdraw(emission *Emission) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if index := slices.Index(e.waiting, emission); index >= 0 {
		e.waiting = slices.Delete(e.waiting, index, index+1)
		e.leave(emission)
		emission.finish(nil, &Error{Code: codes.Canceled, Message: "it was withdrawn before it was sent"})
	}
}

// run makes calls until nothing waits.
func (e *emitter) run() {
	for {
		call := e.take()
		if call == nil {
			return
		}
		results, err := e.send(call)
		e.settle(call, results, err)
	}
}

// take is what the next call carries; nil: nothing waits.
func (e *emitter) take() []*Emission {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.underWay = nil
	if len(e.waiting) == 0 {
		e.sending = false
		close(e.idle)
		return nil
	}
	count, size := 1, e.waiting[0].size
	for !e.waiting[0].isAlone && count < min(len(e.waiting), maxBatch) {
		next := e.waiting[count]
		if size += next.size; next.isAlone || size > maxCallBytes {
			break
		}
		count++
	}
	e.underWay = slices.Clone(e.waiting[:count])
	e.waiting = slices.Delete(e.waiting, 0, count)
	e.leave(e.underWay...)
	return e.underWay
}

func (e *emitter) send(call []*Emission) (results []*hubpb.EmitEventResponse, err error) {
	request := &hubpb.BatchEmitEventsRequest{Independent: !call[0].isList}
	for _, emission := range call {
		request.Events = append(request.Events, emission.events...)
	}
	err = e.client.repeat(e.client.ctx, func(ctx context.Context) error {
		if request.Independent && len(request.Events) == 1 {
			answer, err := e.client.events.EmitEvent(ctx, &hubpb.EmitEventRequest{Event: request.Events[0]})
			results = []*hubpb.EmitEventResponse{answer}
			return err
		}
		answer, err := e.client.events.BatchEmitEvents(ctx, request)
		results = answer.GetResults()
		return err
	})
	if err == nil && len(results) != len(request.GetEvents()) {
		err = &Error{Code: codes.Internal, Message: "the hub answered for another number of events"}
	}
	return results, err
}

// settle gives each caller its answer.
func (e *emitter) settle(call []*Emission, results []*hubpb.EmitEventResponse, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.settleFailure(call, err)
		return
	}
	if call[0].isList {
		call[0].finish(results, nil)
		return
	}
	for i, emission := range call {
		if refused := results[i].GetError(); refused != nil {
			emission.finish(nil, errorOfStatus(refused).renamed(fmt.Sprintf("events[%d]", i), "event"))
		} else {
			emission.finish(results[i:i+1], nil)
		}
	}
}

func (e *emitter) settleFailure(call []*Emission, err error) {
	failure, ok := err.(*Error)
	if !ok {
		failure = errClose
	}
	if len(call) > 1 && (failure.Code == codes.InvalidArgument || failure.Code == codes.AlreadyExists) {
		for _, emission := range call { // the hub does not judge each event alone: one of them fails the others
			emission.isAlone = true
		}
		e.waiting = append(call, e.waiting...)
		return
	}
	for _, emission := range call {
		emission.finish(nil, failure)
	}
	if failure.repeatable() { // the hub is away: what has waited as long as a call may take fails, too
		for len(e.waiting) > 0 && time.Since(e.waiting[0].since) >= e.client.policy.CallTimeout {
			e.leave(e.waiting[0])
			e.waiting[0].finish(nil, failure)
			e.waiting = e.waiting[1:]
		}
	}
}

// newEventID is a UUIDv7 (RFC 9562): ordered by time, which keeps the hub's index small.
func newEventID(now time.Time) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(id[6:]) // never fails
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
