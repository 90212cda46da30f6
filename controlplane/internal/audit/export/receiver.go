package export

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/egress"
)

const (
	connectTimeout = 10 * time.Second
	// sendTimeout bounds one batch.
	sendTimeout = time.Minute
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 1 << 20
)

// reach is how a receiver is reached: over TLS that its ca vouches for, at no address that the guard refuses.
func reach(e *policyv1.AuditExporter) (*net.Dialer, *tls.Config, error) {
	guard, err := egress.New(e.GetAllowedRanges()...)
	if err != nil {
		return nil, nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.GetCa() != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(e.GetCa())) {
			return nil, nil, errors.New("its ca holds no certificate in PEM")
		}
	}
	return guard.Dialer(connectTimeout), config, nil
}

// transport reaches a receiver by HTTP.
func transport(e *policyv1.AuditExporter) (*http.Transport, error) {
	dialer, config, err := reach(e)
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: config, TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: sendTimeout,
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}, nil
}

// receiver is sent requests.
type receiver struct {
	client *http.Client
	url    string
	// judge, if any, knows more of what an answer says than its code does; nil: it does not.
	judge func(answer []byte) error
}

func newReceiver(e *policyv1.AuditExporter) (*receiver, error) {
	t, err := transport(e)
	if err != nil {
		return nil, err
	}
	return &receiver{url: e.GetUrl(), client: &http.Client{
		Transport: t, Timeout: sendTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// post sends a body, and returns the answer's where the receiver took it.
func (r *receiver) post(ctx context.Context, to string, header http.Header, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("its url cannot be used")
	}
	req.Header = header
	req.Header.Set("User-Agent", "sallyport")
	res, err := r.client.Do(req)
	if err != nil {
		return nil, plain(err)
	}
	defer res.Body.Close() // what counts was read
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, plain(err)
	}
	code := res.StatusCode
	if code >= 200 && code <= 299 {
		return answer, nil
	}
	if r.judge != nil {
		if err := r.judge(answer); err != nil {
			return nil, err
		}
	}
	switch {
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return nil, busy(fmt.Sprintf("the receiver answered %d", code), res.Header, time.Now())
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity:
		return nil, &Refusal{Certain: true, Text: fmt.Sprintf("the receiver answered %d%s", code, said(answer))}
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return nil, fmt.Errorf("the receiver answered %d: is the exporter's secret right?", code)
	case code >= 300 && code <= 399:
		return nil, fmt.Errorf("the receiver answered %d, and redirects are not followed: is the url right?", code)
	case code >= 500 && code != http.StatusBadGateway && code != http.StatusGatewayTimeout:
		return nil, &Refusal{Text: fmt.Sprintf("the receiver answered %d%s", code, said(answer))}
	default:
		return nil, fmt.Errorf("the receiver answered %d", code)
	}
}

func (r *receiver) close() error {
	r.client.CloseIdleConnections()
	return nil
}

// said is the beginning of what a receiver answered, as far as it can be shown.
func said(answer []byte) string {
	const most = 200
	answer = bytes.TrimSpace(answer[:min(len(answer), most)])
	if len(answer) == 0 {
		return ""
	}
	return fmt.Sprintf(": %q", answer)
}

// plain says why something was not sent, without where.
func plain(err error) error {
	if errors.Is(err, egress.ErrRefused) {
		return fmt.Errorf("the receiver was not asked: %w; if it is meant to be there, allow the range with allowedRanges in its YAML", egress.ErrRefused)
	}
	var in *url.Error
	if errors.As(err, &in) {
		err = in.Err
	}
	return fmt.Errorf("the receiver cannot be reached: %w", err)
}
