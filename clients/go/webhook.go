package hub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const webhookTolerance = 300 // seconds that a request may be old, or ahead of this machine's clock

var (
	// ErrWebhookRefused is the error of a request that is not the hub's, or too old: answer it with 401.
	ErrWebhookRefused = errors.New("hub: the webhook is not to be believed")
	// ErrWebhookSecret is the error of a secret that was not copied completely.
	ErrWebhookSecret = errors.New("hub: the secret must be whsec_ and base64, as CreateEndpoint or RotateEndpointSecret showed it")
)

// VerifyWebhook verifies what was posted to an endpoint. body is the bytes as they came: what a parser made of them
// does not verify. secret is the endpoint's, "whsec_...".
func VerifyWebhook(header http.Header, body []byte, secret string) error {
	return VerifyWebhookAt(header, body, secret, time.Now())
}

// VerifyWebhookAt is VerifyWebhook at another time than now.
func VerifyWebhookAt(header http.Header, body []byte, secret string, now time.Time) error {
	encoded, prefixed := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !prefixed || len(key) == 0 {
		return ErrWebhookSecret
	}
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	if id == "" || timestamp == "" {
		return fmt.Errorf("%w: webhook-id or webhook-timestamp is missing", ErrWebhookRefused)
	}
	seconds, err := strconv.ParseUint(timestamp, 10, 62)
	if err != nil {
		return fmt.Errorf("%w: webhook-timestamp is not a number of seconds", ErrWebhookRefused)
	}
	if age := now.Unix() - int64(seconds); age > webhookTolerance || age < -webhookTolerance {
		return fmt.Errorf("%w: it is too old, or this machine's clock is wrong", ErrWebhookRefused)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	expected := mac.Sum(nil)
	for _, signature := range strings.Fields(header.Get("webhook-signature")) {
		value, found := strings.CutPrefix(signature, "v1,")
		given, err := base64.StdEncoding.DecodeString(value)
		if found && err == nil && hmac.Equal(given, expected) {
			return nil
		}
	}
	return fmt.Errorf("%w: no signature matches: wrong secret, or the body was changed", ErrWebhookRefused)
}
