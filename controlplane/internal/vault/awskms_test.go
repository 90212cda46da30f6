package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const awsTestKey = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

var awsTestCredentials = aws.Credentials{AccessKeyID: "AKIDSTANDIN", SecretAccessKey: "stand-in/secret", SessionToken: "stand-in-session"}

// newAWSServer answers as AWS KMS does, to whoever signs as AWS asks.
func newAWSServer(t *testing.T) *standIn {
	var s *standIn
	s = newStandIn(t, func(w http.ResponseWriter, r *http.Request) { serveAWS(s, w, r) })
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_KMS": s.URL, "AWS_CA_BUNDLE": bundle, "AWS_EC2_METADATA_DISABLED": "true", "AWS_PROFILE": "", "AWS_REGION": "us-east-2",
		"AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"),
		"AWS_ACCESS_KEY_ID": awsTestCredentials.AccessKeyID, "AWS_SECRET_ACCESS_KEY": awsTestCredentials.SecretAccessKey, "AWS_SESSION_TOKEN": awsTestCredentials.SessionToken,
	} {
		t.Setenv(name, value)
	}
	return s
}

func serveAWS(s *standIn, w http.ResponseWriter, r *http.Request) {
	fail := func(code string) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": "on what was asked: hunter2"})
	}
	var in struct {
		KeyID, EncryptionAlgorithm string
		Plaintext, CiphertextBlob  []byte
		EncryptionContext          map[string]string
	}
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil, !signedAsAWSAsks(r, body):
		fail("InvalidSignatureException")
		return
	case s.deny:
		fail("AccessDeniedException")
		return
	case json.Unmarshal(body, &in) != nil:
		fail("SerializationException")
		return
	case in.KeyID != awsTestKey:
		fail("NotFoundException")
		return
	}
	aad, _ := json.Marshal(in.EncryptionContext) // by the order of its keys
	out := map[string]any{"KeyId": awsTestKey, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.Encrypt":
		if len(in.Plaintext) == 0 || len(in.Plaintext) > 4096 {
			fail("ValidationException")
			return
		}
		out["CiphertextBlob"] = s.seal(in.Plaintext, aad)
	case "TrentService.Decrypt":
		if out["Plaintext"], err = s.unseal(in.CiphertextBlob, aad); err != nil {
			fail("InvalidCiphertextException")
			return
		}
	default:
		fail("UnknownOperationException")
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(out)
}

// signedAsAWSAsks signs the same anew and compares.
func signedAsAWSAsks(r *http.Request, body []byte) bool {
	given := r.Header.Get("Authorization")
	_, names, _ := strings.Cut(given, "SignedHeaders=")
	names, _, _ = strings.Cut(names, ",")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > 5*time.Minute || r.Header.Get("X-Amz-Security-Token") != awsTestCredentials.SessionToken {
		return false
	}
	again, err := http.NewRequestWithContext(r.Context(), r.Method, "https://"+r.Host+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		return false
	}
	for name := range strings.SplitSeq(names, ";") {
		if values := r.Header.Values(name); len(values) > 0 && name != "content-length" {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	hash := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(r.Context(), awsTestCredentials, again, hex.EncodeToString(hash[:]), "kms", "eu-west-1", at)
	return err == nil && given == again.Header.Get("Authorization")
}

func TestAWSSealsTheKeys(t *testing.T) {
	server := newAWSServer(t)
	testRemote(t, server, func() (root, error) { return openRoot(t.Context(), "aws-kms://"+awsTestKey) })
	s := newSite(t)
	if _, err := Open(within(t), s.store, Config{Keys: []string{"aws-kms://" + awsTestKey}}); err != nil {
		t.Error(err)
	}
}

func TestAWSsRefusalsSayWhatToDo(t *testing.T) {
	server := newAWSServer(t)
	for name, c := range map[string]struct {
		variable, value, key, want string
	}{
		"a wrong secret":       {"AWS_SECRET_ACCESS_KEY", "hunter2", awsTestKey, "not take the AWS credentials (InvalidSignature"},
		"no credentials":       {"AWS_ACCESS_KEY_ID", "", awsTestKey, "no AWS credentials"},
		"another key":          {"X", "", strings.Replace(awsTestKey, "1234abcd", "00000000", 1), "has no key"},
		"another region":       {"X", "", strings.Replace(awsTestKey, "eu-west-1", "eu-west-2", 1), "not take the AWS credentials"},
		"in the clear":         {"AWS_ENDPOINT_URL_KMS", strings.Replace(server.URL, "https:", "http:", 1), awsTestKey, "must begin with https://"},
		"who it is, is unsure": {"AWS_CA_BUNDLE", "", awsTestKey, "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			r, err := openRoot(within(t), "aws-kms://"+c.key)
			if err == nil {
				_, err = r.EncryptWithContext(within(t), []byte("hunter2"), nil)
			}
			if err == nil || !contains(err.Error(), c.want) || contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
		})
	}
	r, err := openRoot(within(t), "aws-kms://"+awsTestKey)
	if err != nil {
		t.Fatal(err)
	}
	before := server.asked
	if _, err := r.EncryptWithContext(within(t), make([]byte, 4097), nil); err == nil || !contains(err.Error(), "4096") || server.asked != before {
		t.Errorf("got %v", err)
	}
}
