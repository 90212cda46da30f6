package mcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Event is a server-sent event (HTML Living Standard, server-sent events). From a reader, its bytes are valid until the next
// one is read.
type Event struct {
	ID   string // empty: none was given with this event
	Type string // empty: "message"
	Data []byte
}

// Errors of an EventReader.
var (
	ErrEventTooLarge = errors.New("a server-sent event is too large")
	ErrEventCut      = errors.New("the event stream ended within an event")
)

// EventReader reads server-sent events.
type EventReader struct {
	from   io.Reader
	most   int
	buf    []byte // read and not yet used: buf[start:end]
	start  int
	end    int
	data   []byte
	err    error
	skipLF bool // the last line ended with CR: an LF that follows belongs to it
	begun  bool

	lastID string
	retry  time.Duration
}

// Last returns the id after which the stream can be continued, and how long the server wants to be left alone before; empty and
// zero where it said neither.
func (r *EventReader) Last() (id string, retry time.Duration) { return r.lastID, r.retry }

// NewEventReader reads events of up to most bytes, lines included; zero means 4 MiB.
func NewEventReader(from io.Reader, most int) *EventReader {
	if most <= 0 {
		most = 4 << 20
	}
	return &EventReader{from: from, most: most, buf: make([]byte, 4096)}
}

// Next returns the next event that has data. It returns io.EOF at an end between events, ErrEventCut at one within an event,
// ErrEventTooLarge, or the error of the underlying reader.
func (r *EventReader) Next() (Event, error) {
	var e Event
	r.data = r.data[:0]
	within, some := false, false
	for size := 0; ; {
		line, err := r.line(r.most - size)
		if err != nil {
			if errors.Is(err, io.EOF) && within {
				err = ErrEventCut
			}
			return Event{}, err
		}
		size += len(line) + 1
		if len(line) == 0 {
			if some {
				e.Data = r.data[:len(r.data)-1] // without the newline after the last line
				return e, nil
			}
			e, within, size = Event{}, false, 0 // no data: nothing is dispatched
			continue
		}
		if line[0] == ':' {
			continue // a comment keeps the connection alive
		}
		within = true
		field, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(field) {
		case "data":
			r.data = append(append(r.data, value...), '\n')
			some = true
		case "event":
			e.Type = string(value)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				e.ID = string(value)
				r.lastID = e.ID
			}
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				r.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// line returns the next line without its end, which may be LF, CR or CRLF. It never waits for what follows a CR.
func (r *EventReader) line(most int) ([]byte, error) {
	for seen := 0; ; {
		if r.skipLF && r.start < r.end {
			if r.buf[r.start] == '\n' {
				r.start++
			}
			r.skipLF = false
		}
		if i := lineEnd(r.buf[r.start+seen : r.end]); i >= 0 {
			line := r.buf[r.start : r.start+seen+i]
			r.skipLF = r.buf[r.start+seen+i] == '\r'
			r.start += seen + i + 1
			if len(line) > most {
				return nil, ErrEventTooLarge
			}
			return r.withoutMark(line), nil
		}
		seen = r.end - r.start
		if seen > most {
			return nil, ErrEventTooLarge
		}
		if r.err != nil {
			if seen > 0 && errors.Is(r.err, io.EOF) {
				return nil, ErrEventCut
			}
			return nil, r.err
		}
		r.fill()
	}
}

// lineEnd finds the first CR or LF, -1 if there is none. It looks no further than about twice as far as that: of many short lines, each
// would else cost as much as all that was read.
func lineEnd(b []byte) int {
	for at, piece := 0, 128; at < len(b); at, piece = at+piece, 2*piece {
		part := b[at:min(at+piece, len(b))]
		lf := bytes.IndexByte(part, '\n')
		if lf >= 0 {
			part = part[:lf]
		}
		if cr := bytes.IndexByte(part, '\r'); cr >= 0 {
			return at + cr
		}
		if lf >= 0 {
			return at + lf
		}
	}
	return -1
}

// withoutMark drops a byte order mark from the stream's first line.
func (r *EventReader) withoutMark(line []byte) []byte {
	if r.begun {
		return line
	}
	r.begun = true
	return bytes.TrimPrefix(line, []byte("\ufeff"))
}

func (r *EventReader) fill() {
	if r.start > 0 {
		copy(r.buf, r.buf[r.start:r.end])
		r.start, r.end = 0, r.end-r.start
	}
	if r.end == len(r.buf) {
		grown := make([]byte, 2*len(r.buf))
		copy(grown, r.buf)
		r.buf = grown
	}
	n, err := r.from.Read(r.buf[r.end:])
	r.end += n
	r.err = err
}

// EventWriter answers an HTTP request with server-sent events, each flushed at once. It is for one goroutine at a time.
type EventWriter struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	buf   []byte
}

// NewEventWriter sends the response's head, so that the agent knows that the stream is open.
func NewEventWriter(w http.ResponseWriter) (*EventWriter, error) {
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream"}
	h["Cache-Control"] = []string{"no-store, no-transform"}
	h["X-Accel-Buffering"] = []string{"no"}
	w.WriteHeader(http.StatusOK)
	e := &EventWriter{w: w, flush: http.NewResponseController(w)}
	if err := e.flush.Flush(); err != nil {
		return nil, fmt.Errorf("opening an event stream: %w", err)
	}
	return e, nil
}

var errEventField = errors.New("an event's id or type holds a line end or NUL")

// Write sends an event. Line ends within data, which JSON knows as white space only, are kept as such.
func (e *EventWriter) Write(event Event) error {
	if strings.ContainsAny(event.ID, "\r\n\x00") || strings.ContainsAny(event.Type, "\r\n\x00") {
		return errEventField
	}
	b := e.buf[:0]
	if event.ID != "" {
		b = append(append(append(b, "id: "...), event.ID...), '\n')
	}
	if event.Type != "" {
		b = append(append(append(b, "event: "...), event.Type...), '\n')
	}
	for data := event.Data; ; {
		end := lineEnd(data)
		if end < 0 {
			b = append(append(append(b, "data: "...), data...), '\n')
			break
		}
		b = append(append(append(b, "data: "...), data[:end]...), '\n')
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
	return e.send(append(b, '\n'))
}

// Prime sends an event without data, after whose id the stream can be continued, and how many milliseconds to wait before.
func (e *EventWriter) Prime(id string, milliseconds int64) error {
	if strings.ContainsAny(id, "\r\n\x00") {
		return errEventField
	}
	b := append(append(append(e.buf[:0], "id: "...), id...), "\nretry: "...)
	return e.send(append(strconv.AppendInt(b, milliseconds, 10), "\ndata: \n\n"...))
}

// KeepAlive sends a comment, which clients pass over.
func (e *EventWriter) KeepAlive() error { return e.send(append(e.buf[:0], ":\n\n"...)) }

// keep bounds the buffer that is kept between events.
const keep = 64 << 10

func (e *EventWriter) send(b []byte) error {
	if e.buf = b; cap(b) > keep {
		e.buf = nil
	}
	if _, err := e.w.Write(b); err != nil {
		return fmt.Errorf("writing an event: %w", err)
	}
	if err := e.flush.Flush(); err != nil {
		return fmt.Errorf("flushing an event: %w", err)
	}
	return nil
}
