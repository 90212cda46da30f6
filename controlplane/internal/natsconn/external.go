package natsconn

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// checkSyncAlways asks an external cluster, as far as it answers, whether each server syncs before it
// acknowledges. Only a system account may ask; who may not is told what to check.
func checkSyncAlways(ctx context.Context, nc *nats.Conn, log *slog.Logger) {
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err == nil {
		defer sub.Unsubscribe() //nolint:errcheck // the subscription dies with its inbox
		err = nc.PublishRequest("$SYS.REQ.SERVER.PING.JSZ", inbox, nil)
	}
	asked := 0
	for err == nil {
		wait, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		var m *nats.Msg
		m, err = sub.NextMsgWithContext(wait)
		cancel()
		if err != nil || len(m.Data) == 0 {
			break
		}
		var answer struct {
			Server struct {
				Name string `json:"name"`
			} `json:"server"`
			Data struct {
				Config struct {
					SyncAlways bool `json:"sync_always"`
				} `json:"config"`
			} `json:"data"`
		}
		if json.Unmarshal(m.Data, &answer) != nil {
			continue
		}
		asked++
		if !answer.Data.Config.SyncAlways {
			log.ErrorContext(ctx, "a NATS server acknowledges before it syncs: a power failure can lose changes that were answered; set sync_interval: always", "server", answer.Server.Name)
		}
	}
	if asked == 0 {
		log.WarnContext(ctx, "whether the NATS cluster syncs each write cannot be asked without a system account: see that each server has sync_interval: always")
	}
}

// splitLoopback reads a host and a port, and refuses what others than this machine could reach.
func splitLoopback(address string) (string, int, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("the NATS address %q is not host:port: %w", address, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return "", 0, fmt.Errorf("the NATS address %q has no port number", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, fmt.Errorf("the embedded NATS server has no passwords and listens on loopback only, not on %q: use an external cluster with --nats-url", host)
	}
	if port == 0 {
		port = -1 // NATS's word for any free one
	}
	return host, port, nil
}

// natsLog hands the server's log to slog. What it says in passing is for debugging only.
type natsLog struct{ log *slog.Logger }

func (l *natsLog) Noticef(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l *natsLog) Warnf(format string, v ...any)   { l.log.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l *natsLog) Fatalf(format string, v ...any)  { l.log.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l *natsLog) Errorf(format string, v ...any)  { l.log.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l *natsLog) Debugf(string, ...any)           {}
func (l *natsLog) Tracef(string, ...any)           {}
