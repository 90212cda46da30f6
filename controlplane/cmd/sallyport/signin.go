package main

import (
	"cmp"
	"context"
	"net/http"

	"github.com/spf13/pflag"

	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
)

// signinConfig is what the flags of `serve` say of signing in.
type signinConfig struct {
	addr, url string
}

func (c *signinConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.addr, "signin-addr", "127.0.0.1:7403", "where browsers and agents reach sign-in")
	f.StringVar(&c.url, "signin-url", "", "public URL of the sign-in listener, https, or http on loopback; it is the issuer of agents' tokens and does not change later (default: http or https and --signin-addr)")
}

// signinURL is where people sign in.
func (p *plane) signinURL() string {
	scheme := "http://"
	if p.tlsCert != "" {
		scheme = "https://"
	}
	return cmp.Or(p.signin.url, scheme+p.signin.addr)
}

// signIn makes the part that signs people in, and what its listener serves.
func (p *plane) signIn(ctx context.Context) (http.Handler, error) {
	store, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_SIGNIN", Replicas: p.conn.Replicas()})
	if err != nil {
		return nil, err
	}
	people, err := signin.New(signin.Config{Engine: p.engine, Store: store, Secrets: p.vault, URL: p.signinURL(), Record: p.noteSignIn, Log: p.log})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", people.Handler())
	p.admins.Store, p.admins.People = store, people
	mux.Handle(p.admins.PagePath(), p.admins.PageHandler())
	return mux, nil
}

// noteSignIn writes down what became of a sign-in.
func (p *plane) noteSignIn(ctx context.Context, e signin.Event) {
	person := ""
	if e.Person != nil {
		person = e.Person.ID.String()
	}
	p.log.InfoContext(ctx, "sign-in", "outcome", e.Outcome, "directory", e.Directory, "person", person, "acr", e.ACR, "amr", e.AMR)
}
