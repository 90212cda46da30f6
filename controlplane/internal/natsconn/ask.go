package natsconn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// askTimeout bounds one question to a server.
const askTimeout = 2 * time.Second

// askJetStream asks the server whether JetStream answers.
func askJetStream(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, "$JS.API.INFO", nil)
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("%w: JetStream is not enabled on the server, or it disabled itself; look for a full disk in the server's log", ErrUnavailable)
	}
	if err != nil {
		return fmt.Errorf("%w: JetStream does not answer: %w", ErrUnavailable, err)
	}
	var answer struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("%w: JetStream's answer is not readable: %w", ErrUnavailable, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("%w: JetStream says: %s", ErrUnavailable, answer.Error.Description)
	}
	return nil
}

// checkSyncAlways refuses a cluster of which a server is known not to sync each write. That can be asked only by
// the system account; where it cannot, a warning says so once.
func checkSyncAlways(ctx context.Context, nc *nats.Conn, log *slog.Logger) error {
	answers, err := askServers(ctx, nc, "$SYS.REQ.SERVER.PING.JSZ")
	if err != nil {
		return err
	}
	for _, data := range answers {
		var answer struct {
			Server struct {
				Name string `json:"name"`
			} `json:"server"`
			Data struct {
				Disabled bool `json:"disabled"`
				Config   struct {
					SyncAlways bool `json:"sync_always"`
				} `json:"config"`
			} `json:"data"`
		}
		if json.Unmarshal(data, &answer) != nil || answer.Data.Disabled {
			continue
		}
		if !answer.Data.Config.SyncAlways {
			return fmt.Errorf("the NATS server %q does not sync each write: a power failure would lose acknowledged changes; set `jetstream { sync_interval: always }` on every server", answer.Server.Name)
		}
	}
	if len(answers) == 0 {
		log.WarnContext(ctx, "could not ask the NATS servers whether they sync each write: make sure that each has `jetstream { sync_interval: always }`")
	}
	return nil
}

// askServers collects what the servers answer within half a second, none where this account may not ask.
func askServers(ctx context.Context, nc *nats.Conn, subject string) ([][]byte, error) {
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("asking the NATS servers for their settings: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the answers are in, whatever becomes of the subscription
	if err := nc.PublishRequest(subject, inbox, nil); err != nil {
		return nil, fmt.Errorf("asking the NATS servers for their settings: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	var answers [][]byte
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return answers, nil // time is over, or nobody may answer: what came is what is known
		}
		answers = append(answers, msg.Data)
	}
}

// redacted takes user names and passwords out of a list of URLs.
func redacted(list string) string {
	parts := strings.Split(list, ",")
	for i, part := range parts {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil || u.User == nil {
			continue
		}
		u.User = url.User("***")
		parts[i] = u.String()
	}
	return strings.Join(parts, ",")
}
