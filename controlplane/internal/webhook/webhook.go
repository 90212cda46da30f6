// Package webhook signs what is posted to others' webhooks, as Standard Webhooks says: who knows the key can tell that a message is ours, that it is
// as it was sent, and, by its id and time, that it was not sent before by somebody who overheard it.
//
// It sends nothing itself, and never shows a key.
package webhook

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

// minKey is the least length of a key, in bytes.
const minKey = 24

// ReadKey reads a key as it is written: base64, with or without whsec_ before it.
func ReadKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(text), "whsec_"))
	if err != nil {
		return nil, errors.New("the key is not base64")
	}
	return key, CheckKey(key)
}

// CheckKey refuses a key that is too short.
func CheckKey(key []byte) error {
	if len(key) < minKey {
		return fmt.Errorf("the webhook's key must have at least %d bytes", minKey)
	}
	return nil
}

// Sign sets the headers that say a message's id and time, and sign both and the body.
func Sign(h http.Header, key []byte, id string, at time.Time, body []byte) {
	when := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, when, body) // a hash does not fail
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", when)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}
