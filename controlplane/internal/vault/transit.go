package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// transit is a key of HashiCorp Vault's transit secrets engine. It is spoken to by its HTTP API, of which two calls are needed.
type transit struct {
	base, mount, key string
	client           *http.Client
}

func newTransit(uri string) (*transit, error) {
	u, err := url.Parse(uri)
	form := errors.New("a key of HashiCorp Vault is hcvault://HOST[:PORT]/MOUNT/keys/NAME")
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, form
	}
	mount, key, ok := strings.Cut(strings.Trim(u.Path, "/"), "/keys/")
	if !ok || mount == "" || key == "" || strings.Contains(key, "/") {
		return nil, form
	}
	scheme := "https://"
	if u.Scheme == "hcvault+http" {
		if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
			return nil, errors.New("hcvault+http: is for an agent on this machine (127.0.0.1): what goes to it is not encrypted")
		}
		scheme = "http://"
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := os.Getenv("VAULT_CACERT"); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading VAULT_CACERT: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(data) {
			return nil, errors.New("VAULT_CACERT holds no certificate")
		}
	}
	return &transit{base: scheme + u.Host, mount: mount, key: key, client: remoteClient(
		&http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true})}, nil
}

// EncryptWithContext seals. What comes back names the version of the key.
func (t *transit) EncryptWithContext(ctx context.Context, plain, binding []byte) ([]byte, error) {
	var answer struct {
		Data struct {
			Ciphertext string `json:"ciphertext"`
		} `json:"data"`
	}
	err := t.ask(ctx, "encrypt", map[string]string{
		"plaintext": base64.StdEncoding.EncodeToString(plain), "associated_data": base64.StdEncoding.EncodeToString(binding),
	}, &answer)
	if err == nil && !strings.HasPrefix(answer.Data.Ciphertext, "vault:") {
		err = errors.New("HashiCorp Vault answered without a ciphertext")
	}
	return []byte(answer.Data.Ciphertext), err
}

// DecryptWithContext opens what was sealed with any version of the key that Vault still has.
func (t *transit) DecryptWithContext(ctx context.Context, sealed, binding []byte) ([]byte, error) {
	var answer struct {
		Data struct {
			Plaintext string `json:"plaintext"`
		} `json:"data"`
	}
	err := t.ask(ctx, "decrypt", map[string]string{
		"ciphertext": string(sealed), "associated_data": base64.StdEncoding.EncodeToString(binding),
	}, &answer)
	if err != nil {
		return nil, err
	}
	plain, err := base64.StdEncoding.DecodeString(answer.Data.Plaintext)
	if err != nil {
		return nil, errors.New("HashiCorp Vault answered with a plaintext that is not base64")
	}
	return plain, nil
}

func (t *transit) ask(ctx context.Context, operation string, question map[string]string, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("asking HashiCorp Vault: %w", err)
	}
	return tries(ctx, func() error { return t.once(ctx, operation, body, answer) })
}

func (t *transit) once(ctx context.Context, operation string, body []byte, answer any) error {
	token := os.Getenv("VAULT_TOKEN")
	if file := os.Getenv("VAULT_TOKEN_FILE"); file != "" { // an agent renews it there
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading VAULT_TOKEN_FILE: %w", err)
		}
		token = strings.TrimSpace(string(data))
	}
	if token == "" {
		return errors.New("HashiCorp Vault wants a token: set VAULT_TOKEN, or VAULT_TOKEN_FILE to the file that its agent writes")
	}
	to := t.base + "/v1/" + t.mount + "/" + operation + "/" + url.PathEscape(t.key)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("asking HashiCorp Vault: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Token", token)
	req.Header.Set("X-Vault-Request", "true")
	if namespace := os.Getenv("VAULT_NAMESPACE"); namespace != "" {
		req.Header.Set("X-Vault-Namespace", namespace)
	}
	res, err := t.client.Do(req)
	if err != nil {
		return fmt.Errorf("HashiCorp Vault %w: %w", errBusy, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return fmt.Errorf("HashiCorp Vault %w: %w", errBusy, err)
	case res.StatusCode >= 500, res.StatusCode == http.StatusTooManyRequests: // 503: sealed or standby
		return fmt.Errorf("HashiCorp Vault %w: it answers %s to %s", errBusy, res.Status, operation)
	case res.StatusCode == http.StatusForbidden:
		return fmt.Errorf("HashiCorp Vault refuses: its token needs update on %s/%s/%s", t.mount, operation, t.key)
	case res.StatusCode != http.StatusOK: // what it says is not told: it may quote what was asked
		return fmt.Errorf("HashiCorp Vault answers %s to %s with the key %s", res.Status, operation, t.key)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return errors.New("HashiCorp Vault gave an answer that cannot be read")
	}
	return nil
}
