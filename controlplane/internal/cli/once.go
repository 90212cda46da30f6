package cli

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	expiresHelp = "when it ends: in so long (720h, 30d) or on a day (2027-01-31)"
	outHelp     = "`file` to write the token to, new and readable by you alone, instead of showing it"
)

// parseExpires reads a moment to come: a duration, which may be in days, or a date. Empty: nothing was said.
func parseExpires(text string, now time.Time) (*durationpb.Duration, error) {
	if text == "" {
		return nil, nil
	}
	ttl, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); err != nil && ok {
		var n int
		if n, err = strconv.Atoi(days); n > 36600 {
			n = 0
		}
		ttl = time.Duration(n) * 24 * time.Hour
	}
	if err != nil {
		var day time.Time
		day, err = time.ParseInLocation(time.DateOnly, text, time.Local)
		ttl = day.Sub(now)
	}
	if err != nil || ttl <= 0 || ttl > 100*366*24*time.Hour {
		return nil, usage("--expires is a time to come, such as 720h, 30d or 2027-01-31, not %q", text)
	}
	return durationpb.New(ttl), nil
}

// secret is an answer with a token that is shown once.
type secret[Res any] interface {
	*Res
	GetId() string
	GetToken() string
}

// showOnce makes a call that answers with a token, and shows the token or, where out names a file, writes it there. The
// file is opened before the call, so that no token is lost for want of a place.
func showOnce[C, Req, Res any, P secret[Res]](ctx context.Context, o *options, client newClient[C], m method[C, Req, Res], req *Req, out string, more func(*Res) string) error {
	var file *os.File
	if out != "" {
		var err error
		if file, err = os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return usage("the token cannot be kept: %w", err)
		}
	}
	res, err := ask(ctx, o, client, m, req)
	if file == nil {
		if err != nil {
			return err
		}
		return o.print(res, func() table {
			return line("%s\nKeep it now: it is not shown again. Its id, for tokens revoke: %s\n%s", P(res).GetToken(), P(res).GetId(), more(res))
		})
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(out)
		return err
	}
	_, err = file.WriteString(P(res).GetToken() + "\n")
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("token %s was made but could not be written, revoke it: %w", P(res).GetId(), err)
	}
	return o.print(map[string]string{"id": P(res).GetId(), "file": out}, func() table {
		return line("the token is in %s. Its id, for tokens revoke: %s\n%s", out, P(res).GetId(), more(res))
	})
}
