// Command conformance is the client as a program that speaks the line protocol of conformance/README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tickets.example/hub"
	"tickets.example/hub/hubpb"
)

type line = map[string]any

type command struct {
	Do     string             `json:"do"`
	Target string             `json:"target"`
	Key    string             `json:"key"`
	Policy map[string]float64 `json:"policy"`

	SubscriptionID    string   `json:"subscription_id"`
	Start             any      `json:"start"`
	OnExpiredCursor   string   `json:"on_expired_cursor"`
	Scopes            []string `json:"scopes"`
	GuildIDs          []string `json:"guild_ids"`
	MaxBatchSize      int32    `json:"max_batch_size"`
	HeartbeatInterval float64  `json:"heartbeat_interval"`
	Linger            float64  `json:"linger"`
	AutoCommit        bool     `json:"auto_commit"`
	Erasures          any      `json:"erasures"` // false, "slow", or none for a handler that returns at once

	IDs     []string          `json:"ids"`
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body"` // base64, as encoding/json reads bytes
	Secret  string            `json:"secret"`
	Now     int64             `json:"now"`
}

type adapter struct {
	writing      sync.Mutex
	client       *hub.Client
	subscription *hub.Subscription
	next         func() (*hubpb.Event, error, bool)
	stop         func()
	taking       sync.Mutex // next and stop are for one goroutine at a time
	deleted      chan struct{}
	end          context.CancelFunc
	goroutines   int // before the first client
}

func main() {
	a := &adapter{goroutines: runtime.NumGoroutine()}
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<20)
	for input.Scan() {
		var c command
		if err := json.Unmarshal(input.Bytes(), &c); err != nil {
			panic(err)
		}
		a.do(c)
	}
}

func (a *adapter) do(c command) {
	switch c.Do {
	case "connect":
		a.connect(c)
	case "subscribe":
		a.subscribe(c)
	case "next":
		go a.takeNext()
	case "deleted":
		close(a.deleted)
	case "end":
		a.end()
		go a.leave()
	case "emit":
		for _, id := range c.IDs {
			go a.answer(id, a.client.EmitAsync(event(id)))
		}
	case "emit_batch":
		go a.emitList(c.IDs)
	case "use_key":
		if err := a.client.UseKey(c.Key); err != nil {
			panic(err)
		}
		a.write(line{"reply": "use_key"})
	case "rotate_key":
		go a.rotate()
	case "close":
		go a.close()
	case "verify_webhook":
		a.verify(c)
	default:
		panic("unknown command " + c.Do)
	}
}

func (a *adapter) connect(c command) {
	seconds := func(name string, standard time.Duration) time.Duration {
		if value, ok := c.Policy[name]; ok {
			return time.Duration(value * float64(time.Second))
		}
		return standard
	}
	policy := hub.DefaultPolicy()
	policy.FirstDelay = seconds("first_delay", policy.FirstDelay)
	policy.MaxDelay = seconds("max_delay", policy.MaxDelay)
	policy.OpenTimeout = seconds("open_timeout", policy.OpenTimeout)
	policy.Slack = seconds("slack", policy.Slack)
	policy.GoodbyeTimeout = seconds("goodbye_timeout", policy.GoodbyeTimeout)
	policy.CallTimeout = seconds("call_timeout", policy.CallTimeout)
	policy.TryTimeout = seconds("try_timeout", policy.TryTimeout)
	policy.CommitInterval = seconds("commit_interval", policy.CommitInterval)
	client, err := hub.New(c.Target, c.Key, hub.WithPolicy(policy))
	if err != nil {
		panic(err)
	}
	a.client, a.stop = client, func() {}
}

func (a *adapter) subscribe(c command) {
	request := &hubpb.SubscribeRequest{
		SubscriptionId: c.SubscriptionID, GuildIds: c.GuildIDs, MaxBatchSize: c.MaxBatchSize,
		HeartbeatInterval: duration(c.HeartbeatInterval), Linger: duration(c.Linger),
	}
	for _, name := range c.Scopes {
		request.Scopes = append(request.Scopes, scope(name))
	}
	if c.OnExpiredCursor == "earliest" {
		request.OnExpiredCursor = hubpb.OnExpiredCursor_ON_EXPIRED_CURSOR_EARLIEST
	}
	switch start := c.Start.(type) {
	case string:
		request.Start = hub.Earliest()
	case line:
		request.Start = hub.After(start["cursor"].(string))
	}
	options := []hub.SubscribeOption{hub.OnNotice(a.notice)}
	if c.AutoCommit {
		options = append(options, hub.AutoCommit())
	}
	if c.Erasures != false {
		options = append(options, hub.OnErased(func(erased *hubpb.Erased) {
			a.notice(erased)
			if c.Erasures == "slow" {
				<-a.deleted
			}
		}))
	}
	a.deleted = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	a.end = cancel
	a.subscription = a.client.Subscribe(request, options...)
	a.next, a.stop = iter.Pull2(a.subscription.Events(ctx))
}

func (a *adapter) takeNext() {
	a.taking.Lock()
	defer a.taking.Unlock()
	event, err, ok := a.next()
	switch {
	case !ok:
		a.write(line{"reply": "next", "end": true})
	case err != nil:
		a.write(line{"reply": "next", "error": failure(err)})
	default:
		a.write(line{"reply": "next", "event": event.GetId(), "cursor": a.subscription.Cursor()})
	}
}

func (a *adapter) leave() {
	a.taking.Lock()
	defer a.taking.Unlock()
	a.stop()
	a.write(line{"reply": "end"})
}

func (a *adapter) answer(id string, emission *hub.Emission) {
	stored, err := emission.Get(context.Background())
	if err != nil {
		a.write(line{"reply": "emit", "id": id, "error": failure(err)})
		return
	}
	a.write(line{"reply": "emit", "id": id, "stored": stored.GetEventId()})
}

func (a *adapter) emitList(ids []string) {
	events := make([]*hubpb.Event, len(ids))
	for i, id := range ids {
		events[i] = event(id)
	}
	answers, err := a.client.EmitBatch(context.Background(), events)
	if err != nil {
		a.write(line{"reply": "emit_batch", "error": failure(err)})
		return
	}
	stored := make([]string, len(answers))
	for i, answer := range answers {
		stored[i] = answer.GetEventId()
	}
	a.write(line{"reply": "emit_batch", "stored": stored})
}

func (a *adapter) rotate() {
	key, err := a.client.RotateKey(context.Background(), 0)
	if err != nil {
		panic(err)
	}
	a.write(line{"reply": "rotate_key", "key": key})
}

func (a *adapter) close() {
	_ = a.client.Close() // what it says of events on their way is said to their callers, too
	a.taking.Lock()
	defer a.taking.Unlock()
	a.stop()
	a.requireNoLeak()
	a.write(line{"reply": "close"})
}

// requireNoLeak ends the program, and so fails the script, where goroutines outlive their client.
func (a *adapter) requireNoLeak() {
	const ours = 4 // those of the commands "next", "end" and "close", which may be about to end
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > a.goroutines+ours; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			panic("goroutines outlive their client")
		}
	}
}

func (a *adapter) notice(notice any) {
	if broken, ok := notice.(hub.Reconnecting); ok {
		a.write(line{
			"notice": "reconnecting", "code": broken.Err.CodeName(), "reason": broken.Err.Reason,
			"delay": broken.Delay.Seconds(),
		})
		return
	}
	names := map[string]string{
		"*hubpb.Ready": "ready", "*hubpb.Heartbeat": "heartbeat", "*hubpb.GrantsChanged": "grants_changed",
		"*hubpb.Gap": "gap", "*hubpb.Erased": "erased", "*hubpb.Goodbye": "goodbye",
	}
	a.write(line{"notice": names[fmt.Sprintf("%T", notice)]})
}

func (a *adapter) verify(c command) {
	header := http.Header{}
	for name, value := range c.Headers {
		header.Set(name, value)
	}
	result := "verified"
	switch err := hub.VerifyWebhookAt(header, c.Body, c.Secret, time.Unix(c.Now, 0)); {
	case errors.Is(err, hub.ErrWebhookSecret):
		result = "no secret"
	case err != nil:
		result = "refused"
	}
	a.write(line{"reply": "verify_webhook", "result": result})
}

func (a *adapter) write(l line) {
	a.writing.Lock()
	defer a.writing.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(l); err != nil {
		panic(err)
	}
}

func failure(err error) line {
	var failed *hub.Error
	if !errors.As(err, &failed) {
		return line{"code": "", "message": err.Error()}
	}
	violations := []line{}
	for _, violation := range failed.Violations {
		violations = append(violations, line{"field": violation.Field, "description": violation.Description})
	}
	return line{
		"code": failed.CodeName(), "reason": failed.Reason, "message": failed.Message, "metadata": failed.Metadata,
		"retry_after": failed.RetryAfter, "violations": violations, "event_ids": failed.EventIDs,
	}
}

func event(id string) *hubpb.Event {
	return &hubpb.Event{Id: id, GuildId: "41", Payload: &hubpb.Event_TicketClosed{TicketClosed: &hubpb.TicketClosed{}}}
}

func duration(seconds float64) *durationpb.Duration {
	if seconds == 0 {
		return nil
	}
	return durationpb.New(time.Duration(seconds * float64(time.Second)))
}

func scope(name string) hubpb.Scope {
	for value, full := range hubpb.Scope_name {
		if full == "SCOPE_"+strings.ToUpper(name) {
			return hubpb.Scope(value)
		}
	}
	panic("unknown scope " + name)
}
