package vault

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
)

// awsKMS is a symmetric key of AWS KMS. Credentials and endpoint are found as in any program of AWS: the SDK's variables, its files, or
// what the machine, the container or the cluster lends.
type awsKMS struct {
	key         string // its ARN
	client      *kms.Client
	credentials aws.CredentialsProvider
}

// awsLimit is how many bytes AWS KMS seals at once.
const awsLimit = 4096

var awsKey = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:(?:key/[A-Za-z0-9-]+|alias/[A-Za-z0-9/_-]+)$`)

func newAWS(ctx context.Context, uri string) (*awsKMS, error) {
	key := strings.TrimPrefix(uri, "aws-kms://")
	parts := awsKey.FindStringSubmatch(key)
	if parts == nil {
		return nil, errors.New("a key of AWS KMS is aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID, or with alias/NAME in place of key/ID")
	}
	found, err := config.LoadDefaultConfig(ctx, config.WithRegion(parts[1]), config.WithLogger(logging.Nop{}),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(remoteTimeout)),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = remoteTries, remotePause })
		}))
	if err != nil {
		return nil, fmt.Errorf("reading what the environment says on AWS: %w", err)
	}
	if built, ok := found.HTTPClient.(*awshttp.BuildableClient); ok { // it knows AWS_CA_BUNDLE by now
		found.HTTPClient = remoteClient(built.GetTransport())
	}
	client := kms.NewFromConfig(found)
	if to := client.Options().BaseEndpoint; to != nil {
		if u, err := url.Parse(*to); err != nil || u.Scheme != "https" {
			return nil, errors.New("the endpoint that the environment names for AWS KMS (AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL) must begin with https://")
		}
	}
	return &awsKMS{key: key, client: client, credentials: found.Credentials}, nil
}

// EncryptWithContext seals. What comes back names the key and its version.
func (a *awsKMS) EncryptWithContext(ctx context.Context, plain, binding []byte) ([]byte, error) {
	if len(plain) > awsLimit {
		return nil, fmt.Errorf("AWS KMS seals %d bytes at once, and the vault's key-encryption keys are %d: wait until the keys before the newest are destroyed (sallyport vault status says when)", awsLimit, len(plain))
	}
	var out *kms.EncryptOutput
	err := a.ask(ctx, "Encrypt", func(ctx context.Context) (err error) {
		out, err = a.client.Encrypt(ctx, &kms.EncryptInput{KeyId: &a.key, Plaintext: plain, EncryptionContext: awsBinding(binding)})
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(out.CiphertextBlob) == 0 {
		return nil, errors.New("AWS KMS answered without a ciphertext")
	}
	return out.CiphertextBlob, nil
}

// DecryptWithContext opens what was sealed with any version of this key, and of no other.
func (a *awsKMS) DecryptWithContext(ctx context.Context, sealed, binding []byte) ([]byte, error) {
	var out *kms.DecryptOutput
	err := a.ask(ctx, "Decrypt", func(ctx context.Context) (err error) {
		out, err = a.client.Decrypt(ctx, &kms.DecryptInput{KeyId: &a.key, CiphertextBlob: sealed, EncryptionContext: awsBinding(binding)})
		return err
	})
	if err != nil {
		return nil, err
	}
	return out.Plaintext, nil
}

// awsBinding is a binding as an encryption context, which is text: in base64, so that each binding has one.
func awsBinding(binding []byte) map[string]string {
	return map[string]string{"sallyport-binding": base64.StdEncoding.EncodeToString(binding)}
}

// ask asks; the SDK tries again. Of what comes back only codes are told: the rest may quote what was asked.
func (a *awsKMS) ask(ctx context.Context, operation string, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, remoteTries*remoteTimeout)
	defer cancel()
	if _, err := a.credentials.Retrieve(ctx); err != nil {
		return fmt.Errorf("there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN, or run where a role is attached: %w", err)
	}
	err := question(ctx)
	var said smithy.APIError
	var answered *awshttp.ResponseError
	var unreached *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unreached), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("AWS KMS %w: %w", errBusy, err)
	case errors.As(err, &answered) && answered.HTTPStatusCode() >= 500:
		return fmt.Errorf("AWS KMS %w: it answers %d to %s", errBusy, answered.HTTPStatusCode(), operation)
	case errors.As(err, &said):
		return a.refused(operation, said.ErrorCode())
	}
	return fmt.Errorf("AWS KMS gave an answer to %s that cannot be read", operation)
}

var awsCode = regexp.MustCompile(`^[A-Za-z]{1,60}$`)

func (a *awsKMS) refused(operation, code string) error {
	switch code {
	case "AccessDeniedException":
		return fmt.Errorf("AWS KMS refuses: the identity of the AWS credentials needs kms:Encrypt and kms:Decrypt on %s", a.key)
	case "UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignature", "ExpiredTokenException", "InvalidClientTokenId", "MissingAuthenticationTokenException":
		return fmt.Errorf("AWS KMS does not take the AWS credentials (%s): see that they are right and not over, and that the clock is", code)
	case "NotFoundException":
		return fmt.Errorf("AWS KMS has no key %s", a.key)
	case "DisabledException", "KMSInvalidStateException":
		return fmt.Errorf("AWS KMS does not use the key %s now (%s): enable it, or cancel its deletion", a.key, code)
	case "InvalidCiphertextException", "IncorrectKeyException":
		return fmt.Errorf("AWS KMS cannot open this with %s (%s): another key sealed it, or it was changed", a.key, code)
	case "ThrottlingException", "LimitExceededException":
		return fmt.Errorf("AWS KMS %w: it is asked too often", errBusy)
	}
	if !awsCode.MatchString(code) {
		code = "an error"
	}
	return fmt.Errorf("AWS KMS answers %s to %s with the key %s", code, operation, a.key)
}
