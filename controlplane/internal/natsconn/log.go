package natsconn

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// serverLog writes the embedded server's log lines to slog. The server's notices are ours to debug with.
type serverLog struct {
	log *slog.Logger

	mu  sync.Mutex
	err error
}

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(line(format, v)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.log.Warn(line(format, v)) }
func (l *serverLog) Errorf(format string, v ...any)  { l.log.Error(line(format, v)) }
func (l *serverLog) Debugf(string, ...any)           {}
func (l *serverLog) Tracef(string, ...any)           {}

// Fatalf keeps the reason: the server calls it where it would end the process, which is not its to end.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = errors.New(line(format, v))
	}
}

func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func line(format string, v []any) string { return "nats-server: " + fmt.Sprintf(format, v...) }
