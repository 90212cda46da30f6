package vault

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// Limits of a question to a key management service.
const (
	remoteTimeout = 10 * time.Second // of one try
	remoteAnswer  = 1 << 20          // bytes; a longer answer is cut, and then cannot be read
	remoteTries   = 4
	remotePause   = 2 * time.Second // between two tries, at most
)

// errBusy: it may be asked again.
var errBusy = errors.New("cannot be reached, or cannot answer now")

// tries asks until there is an answer other than errBusy. To seal and to open change nothing there, so that both may be asked twice.
func tries(ctx context.Context, once func() error) error {
	for try := 1; ; try++ {
		err := once()
		if !errors.Is(err, errBusy) || try == remoteTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(try*try) * 100 * time.Millisecond):
		}
	}
}

// remoteClient asks over a transport, within the limits. It follows no redirect: what it sends is for the one who was named.
func remoteClient(over http.RoundTripper) *http.Client {
	return &http.Client{
		Timeout: remoteTimeout, Transport: bounded{over},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// bounded cuts answers at remoteAnswer.
type bounded struct{ http.RoundTripper }

// RoundTrip asks.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := b.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &cut{io.LimitReader(res.Body, remoteAnswer), res.Body}
	return res, nil
}

type cut struct {
	io.Reader
	io.Closer
}
