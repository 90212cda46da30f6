package mcp_test

import (
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
)

// events reads a stream to its end.
func events(from io.Reader, most int) (got []string, err error) {
	r := mcp.NewEventReader(from, most)
	for {
		e, err := r.Next()
		if err != nil {
			return got, err
		}
		got = append(got, e.ID+"|"+e.Type+"|"+string(e.Data))
	}
}

func TestEventsAreRead(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"data: a\n\n", "||a"},
		{"data:a\r\n\r\ndata: b\r\rdata:  c\n\n", "||a;||b;|| c"},
		{"\ufeffid: 1\nevent: message\ndata: x\ndata: y\ndata\n\n", "1|message|x\ny\n"},
		{": hello\n\n:\nretry: 5\n\nid: 7\n\ndata: z\n\n", "||z"},
		{"foo: bar\ndata: {\"a\":1}\n\n", `||{"a":1}`},
		{"id: a\x00b\ndata: x\n\n", "||x"},
		{"data: x\rdata: y\r\n\r\n", "||x\ny"},
		{"", ""},
	} {
		for name, from := range map[string]io.Reader{"whole": strings.NewReader(c.in), "bytewise": iotest.OneByteReader(strings.NewReader(c.in))} {
			got, err := events(from, 0)
			if strings.Join(got, ";") != c.want || !errors.Is(err, io.EOF) {
				t.Errorf("%s %q: %q, %v", name, c.in, got, err)
			}
		}
	}
}

func TestAStreamThatEndsWithinAnEventIsAnError(t *testing.T) {
	for _, in := range []string{"data: a", "data: a\n", "id: 1\n", "data: a\n\nda"} {
		if _, err := events(strings.NewReader(in), 0); !errors.Is(err, mcp.ErrEventCut) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestEventsHaveALimit(t *testing.T) {
	within := "data: " + strings.Repeat("x", 9990) + "\n\n"
	if got, err := events(strings.NewReader(within+within), 10_000); len(got) != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("%d events, %v", len(got), err)
	}
	for name, in := range map[string]io.Reader{
		"a long line":     io.LimitReader(endless{'x'}, 1<<20),
		"many lines":      strings.NewReader(strings.Repeat("data: x\n", 10_000)),
		"many empty data": strings.NewReader(strings.Repeat("data\n", 10_000)),
		"comments":        strings.NewReader("data: x\n" + strings.Repeat(": x\n", 10_000)),
	} {
		if _, err := events(in, 10_000); !errors.Is(err, mcp.ErrEventTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What ends in CR alone must not be searched for LF to its end at each line: many such lines would take minutes.
func TestManyShortLinesAreReadAndWrittenInTime(t *testing.T) {
	returns := strings.Repeat("\r", 4<<20)
	for name, run := range map[string]func() error{
		"read": func() error {
			_, err := events(strings.NewReader(": "+strings.Repeat("x", 8<<20)+"\r"+returns), 16<<20)
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		},
		"written": func() error {
			out, err := mcp.NewEventWriter(httptest.NewRecorder())
			if err != nil {
				return err
			}
			return out.Write(mcp.Event{Data: []byte(`{"a":` + returns + `1}`)})
		},
	} {
		done := make(chan error, 1)
		go func() { done <- run() }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: not after 30 s", name)
		}
	}
}

type endless struct{ c byte }

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.c
	}
	return len(p), nil
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	w := httptest.NewRecorder()
	out, err := mcp.NewEventWriter(w)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []mcp.Event{
		{Data: []byte(`{"a":1}`)}, {ID: "x-1", Type: "message", Data: []byte("{\"a\":\r\n1,\r\"b\":\n2}")}, {Data: []byte("evil\n\ndata: injected")}, {Data: nil},
	} {
		if err := out.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.KeepAlive(), out.Prime("p.0", 1500)); err != nil {
		t.Fatal(err)
	}
	got, err := events(w.Body, 0)
	want := "||{\"a\":1};x-1|message|{\"a\":\n1,\n\"b\":\n2};||evil\n\ndata: injected;||;p.0||"
	if strings.Join(got, ";") != want || !errors.Is(err, io.EOF) {
		t.Errorf("got %q, %v", got, err)
	}
	if h := w.Header(); h.Get("Content-Type") != "text/event-stream" || h.Get("X-Accel-Buffering") != "no" || !w.Flushed {
		t.Errorf("%v", h)
	}
	for _, e := range []mcp.Event{{ID: "a\nb"}, {ID: "a\rb"}, {Type: "a\nb"}, {ID: "a\x00"}} {
		if out.Write(e) == nil {
			t.Errorf("%+v was written", e)
		}
	}
}

func FuzzEventReader(f *testing.F) {
	f.Add([]byte("id: 1\ndata: a\r\ndata: b\r\rdata: c\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, err1 := events(strings.NewReader(string(in)), 1000)
		bytewise, err2 := events(iotest.OneByteReader(strings.NewReader(string(in))), 1000)
		if strings.Join(whole, ";") != strings.Join(bytewise, ";") || !errors.Is(err1, err2) {
			t.Fatalf("read whole: %q %v; bytewise: %q %v", whole, err1, bytewise, err2)
		}
	})
}
