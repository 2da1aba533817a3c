package hub_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tickets.example/hub"
	"tickets.example/hub/hubpb"
)

// A key in plaintext does not leave this machine unless the program says so.
func TestNewUsesTLSForOtherMachines(t *testing.T) {
	client, err := hub.New("hub.example:50051", "tkt_integration_a_b")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if _, err := hub.New("127.0.0.1:50051", "tkt_integration_a_b", hub.WithEnvironmentProxy()); err == nil {
		t.Error("a key in plaintext would go through a proxy")
	}
}

// What cannot be a key is refused before anything is sent.
func TestNewRefusesWhatIsNoKey(t *testing.T) {
	for _, key := range []string{"", "tkt_a\n", "tkt a"} {
		if _, err := hub.New("127.0.0.1:1", key); err == nil || strings.Contains(err.Error(), "tkt") {
			t.Errorf("%q: %v", key, err)
		}
	}
}

// Nothing is begun with a client that is closed; closing it again does nothing.
func TestClosedClient(t *testing.T) {
	client, err := hub.New("127.0.0.1:1", "tkt_integration_a_b")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
	}
	event := &hubpb.Event{GuildId: "41"}
	_, err = client.Emit(context.Background(), event)
	var failure *hub.Error
	if !errors.As(err, &failure) || len(failure.EventIDs) != 1 || failure.EventIDs[0] != event.GetId() {
		t.Errorf("%v", err)
	}
	for range client.Subscribe(nil).Events(context.Background()) {
		t.Error("a closed client has no events")
	}
}

// A loop that is ended by closing the client is not told of a broken stream.
func TestClosingIsNoReconnect(t *testing.T) {
	client, err := hub.New("127.0.0.1:1", "tkt_integration_a_b")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	heard := hub.OnNotice(func(notice any) { t.Errorf("%v", notice) })
	for range 1_000 { // it happened in some of a thousand
		for range client.Subscribe(nil, heard).Events(context.Background()) {
			t.Error("a closed client has no events")
		}
	}
}

// A client that is printed or logged does not show its key.
func TestPrintingAClientShowsNoKey(t *testing.T) {
	client, err := hub.New("127.0.0.1:1", "tkt_integration_a_b")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	subscription := client.Subscribe(nil)
	if shown := fmt.Sprintf("%v %+v %#v %+v", client, client, client, subscription); strings.Contains(shown, "tkt_") {
		t.Error(shown)
	}
}

// An event that its caller has withdrawn has an outcome: asking once more does not wait for ever.
func TestGetAfterWithdrawing(t *testing.T) {
	client, err := hub.New("127.0.0.1:1", "tkt_bot_a_b")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	client.EmitAsync(&hubpb.Event{GuildId: "41"}) // under way for as long as nobody answers
	waiting := client.EmitAsync(&hubpb.Event{Id: "e2", GuildId: "41"})
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := waiting.Get(gone); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	patient, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err = waiting.Get(patient)
	var failure *hub.Error
	if !errors.As(err, &failure) || failure.Code != codes.Canceled || !slices.Equal(failure.EventIDs, []string{"e2"}) {
		t.Error(err)
	}
}

// Nobody answers: a thousand events wait, then EmitAsync does, until one of them is withdrawn.
func TestEmitAsyncWaitsForRoom(t *testing.T) {
	client, err := hub.New("127.0.0.1:1", "tkt_bot_a_b")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for { // until the call of one is under way: the others do not share it
		emission := client.EmitAsync(&hubpb.Event{GuildId: "41"})
		_, _ = emission.Get(gone) // it is withdrawn if it still waits
		short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err := emission.Get(short)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	first := client.EmitAsync(&hubpb.Event{GuildId: "41"})
	for range 999 {
		client.EmitAsync(&hubpb.Event{GuildId: "41"})
	}
	if _, err := client.Emit(gone, &hubpb.Event{GuildId: "41"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	entered := make(chan struct{})
	go func() {
		client.EmitAsync(&hubpb.Event{GuildId: "41"})
		close(entered)
	}()
	select {
	case <-entered:
		t.Error("there was no room")
	case <-time.After(100 * time.Millisecond):
	}
	if _, err := first.Get(gone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-entered
	_ = client.Close()
}

// The reason of a call that was made over Conn is found like that of a call of ours.
func TestReasonOf(t *testing.T) {
	refused, err := status.New(codes.NotFound, "no").WithDetails(&errdetails.ErrorInfo{Reason: "KEY_NOT_FOUND"})
	if err != nil {
		t.Fatal(err)
	}
	for want, given := range map[string]error{
		"KEY_NOT_FOUND": refused.Err(), "DRAINING": fmt.Errorf("later: %w", &hub.Error{Reason: "DRAINING"}), "": context.Canceled,
	} {
		if found := hub.ReasonOf(given); found != want {
			t.Errorf("%v: %q", given, found)
		}
	}
}

// The secret that was not copied completely is told apart from a request that is not the hub's.
func TestVerifyWebhookTellsTheSecretApart(t *testing.T) {
	if err := hub.VerifyWebhook(http.Header{}, nil, "whsec"); !errors.Is(err, hub.ErrWebhookSecret) {
		t.Error(err)
	}
	if err := hub.VerifyWebhook(http.Header{}, nil, "whsec_AAAA"); !errors.Is(err, hub.ErrWebhookRefused) {
		t.Error(err)
	}
}

// An event that cannot be sent fails alone and at once: in a call it would fail those that share it.
func TestEmitRefusesWhatCannotBeEncoded(t *testing.T) {
	client, err := hub.New("127.0.0.1:1", "tkt_bot_a_b")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	_, err = client.Emit(context.Background(), &hubpb.Event{Id: "e1", GuildId: "\xff"})
	var failure *hub.Error
	if !errors.As(err, &failure) || failure.Code != codes.InvalidArgument || !slices.Equal(failure.EventIDs, []string{"e1"}) {
		t.Errorf("%v", err)
	}
}
