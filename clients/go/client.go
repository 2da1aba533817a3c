// Package hub is the client of the Tickets integration hub. It subscribes to events, emits them, and verifies webhooks;
// broken streams are opened again after the last event, and calls that may be repeated without harm are.
//
// The messages are in the package hubpb. docs/delivery.md says what can be relied on.
package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"tickets.example/hub/hubpb"
)

// lastWait is how long Close waits for events and commits that are still to be sent.
const lastWait = 2 * time.Second

var (
	loopback = regexp.MustCompile(`^(unix:|((dns|passthrough):///)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$)`)
	errClose = &Error{Code: codes.Canceled, Message: "this client is closed"}
)

// Client is a connection to the hub with one key. It may be used by many goroutines at once.
type Client struct {
	conn       *grpc.ClientConn
	events     hubpb.EventServiceClient
	key        *clientKey // a pointer: printing a client does not print it
	policy     Policy
	emitter    emitter
	committing sync.WaitGroup
	ctx        context.Context // done once the client is closed
	cancel     context.CancelFunc
}

type settings struct {
	policy      Policy
	credentials credentials.TransportCredentials
	insecure    bool
	proxy       bool
	dial        []grpc.DialOption
}

// Option changes how a client is made.
type Option func(*settings)

// WithPolicy sets timeouts and delays.
func WithPolicy(policy Policy) Option { return func(s *settings) { s.policy = policy } }

// WithTransportCredentials sets how the connection is secured: credentials.NewTLS for an authority of your own or mTLS.
func WithTransportCredentials(c credentials.TransportCredentials) Option {
	return func(s *settings) { s.credentials = c }
}

// WithInsecure sends the key in plaintext to another machine: everyone on the way can read it.
func WithInsecure() Option { return func(s *settings) { s.insecure = true } }

// WithEnvironmentProxy connects through the proxy that the environment names (HTTPS_PROXY). Without it none is used.
func WithEnvironmentProxy() Option { return func(s *settings) { s.proxy = true } }

// WithDialOptions adds options of gRPC.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

// New makes a client for the hub at target ("127.0.0.1:50051"). It connects at the first call. To another machine it
// uses TLS, to this one plaintext, unless an option says otherwise.
func New(target, key string, options ...Option) (*Client, error) {
	chosen := settings{policy: DefaultPolicy()}
	for _, option := range options {
		option(&chosen)
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	secured, err := chosen.secured(target)
	if err != nil {
		return nil, err
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(secured),
		grpc.WithDisableServiceConfig(),
		// A peer that is gone without a word is noticed after 25 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		// gRPC's own backoff grows to two minutes: longer than ours, it would fail our attempts without trying.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 250 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
	}
	if !chosen.proxy {
		dial = append(dial, grpc.WithNoProxy())
	}
	conn, err := grpc.NewClient(target, append(dial, chosen.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	client := &Client{conn: conn, events: hubpb.NewEventServiceClient(conn), key: &clientKey{text: key}, policy: chosen.policy}
	client.ctx, client.cancel = context.WithCancel(context.Background())
	client.emitter.init(client)
	return client, nil
}

func (s *settings) secured(target string) (credentials.TransportCredentials, error) {
	switch {
	case s.credentials != nil:
		return s.credentials, nil
	case s.insecure:
		return insecure.NewCredentials(), nil
	case !loopback.MatchString(target):
		return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), nil
	case s.proxy:
		return nil, errors.New("hub: the proxy could read the key, which goes to this machine in plaintext: leave the proxy out, use TLS, or allow it with WithInsecure")
	default:
		return insecure.NewCredentials(), nil
	}
}

// Conn is the connection, for calls of other services: pass them Context.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Context adds the key to the metadata of calls that are made over Conn.
func (c *Client) Context(ctx context.Context) context.Context {
	text, _ := c.key.current()
	return withKey(ctx, text)
}

// Close sends what waits to be emitted, ends all subscriptions, sends what waits to be committed, each for two seconds at
// most, and disconnects.
// The error is an *Error with the ids of the events that were on their way then: whether those are stored is not known.
// Closing again does nothing.
func (c *Client) Close() error {
	unknown := c.emitter.finish(lastWait)
	c.cancel()
	committed := make(chan struct{})
	go func() { c.committing.Wait(); close(committed) }() // each commit has a deadline, so this ends
	select {
	case <-committed:
	case <-time.After(lastWait):
	}
	_ = c.conn.Close() // an error: it was closed already
	if len(unknown) > 0 {
		return errClose.of(unknown...)
	}
	return nil
}

// Commit commits a cursor of a subscription ("" for the default one). It never moves backwards.
func (c *Client) Commit(ctx context.Context, subscriptionID, cursor string) error {
	request := &hubpb.CommitCursorRequest{SubscriptionId: subscriptionID, Cursor: cursor}
	return c.repeat(ctx, func(ctx context.Context) error {
		_, err := c.events.CommitCursor(ctx, request)
		return err
	})
}

// UseKey uses another key of the same integration or bot from the next call on.
func (c *Client) UseKey(key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	c.key.replace(key)
	return nil
}

// RotateKey makes a new key for this integration, uses it from now on, and returns it: store it for the next start.
// Both keys work for overlap; 0 leaves that to the hub.
func (c *Client) RotateKey(ctx context.Context, overlap time.Duration) (string, error) {
	c.key.rotating.Lock()
	defer c.key.rotating.Unlock()
	request := &hubpb.RotateOwnKeyRequest{}
	if overlap > 0 {
		request.Overlap = durationpb.New(overlap)
	}
	var secret string
	err := c.attempt(ctx, func(ctx context.Context) error {
		reply, err := hubpb.NewDeveloperServiceClient(c.conn).RotateOwnKey(ctx, request)
		secret = reply.GetKey().GetSecret()
		return err
	}, func(int, *Error) bool { return false })
	if err != nil {
		return "", err
	}
	c.key.replace(secret)
	return secret, nil
}

// repeat calls an idempotent method until it succeeds, fails for good, or its time is over.
func (c *Client) repeat(ctx context.Context, method func(context.Context) error) error {
	return c.attempt(ctx, method, c.key.hasNewer)
}

func (c *Client) attempt(ctx context.Context, method func(context.Context) error, newerKey func(int, *Error) bool) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	end, waits := time.Now().Add(c.policy.CallTimeout), delays{policy: c.policy}
	for {
		version, err := c.try(ctx, method, min(c.policy.TryTimeout, time.Until(end)))
		if err == nil {
			return nil
		}
		if c.ctx.Err() != nil {
			return errClose
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failure := errorOf(err)
		asked := failure.RetryAfter
		if newerKey(version, failure) {
			asked = new(time.Duration)
		} else if !failure.repeatable() {
			return failure
		}
		delay := waits.failed(asked)
		if time.Now().Add(delay).After(end) {
			return failure
		}
		wait(ctx, delay)
	}
}

func (c *Client) try(ctx context.Context, method func(context.Context) error, timeout time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	text, version := c.key.current()
	return version, method(withKey(ctx, text))
}

// bound is a context that is done with the caller's or with the client, whichever is first.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func wait(ctx context.Context, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func withKey(ctx context.Context, key string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
}

// clientKey is the key that calls carry, and its version, which grows with each replacement.
type clientKey struct {
	mu       sync.Mutex
	rotating sync.Mutex // held during a rotation
	text     string
	version  int
}

func (k *clientKey) current() (string, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text, k.version
}

func (k *clientKey) replace(text string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.text = text
	k.version++
}

// hasNewer: the call failed because its key has ended, and there is a newer one by now. It waits for a rotation.
func (k *clientKey) hasNewer(version int, failure *Error) bool {
	if !failure.isKeyEnding() {
		return false
	}
	k.rotating.Lock()
	defer k.rotating.Unlock()
	_, newest := k.current()
	return newest != version
}

func checkKey(key string) error {
	for _, char := range key {
		if char <= ' ' || char > '~' {
			return errors.New("hub: the key holds spaces, line breaks or other characters that no key has")
		}
	}
	if key == "" {
		return errors.New("hub: the key is empty")
	}
	return nil
}
