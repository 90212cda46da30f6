package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/address"
	"sallyport.dev/dataplane/egress"

	"sallyport.dev/controlplane/internal/authserver"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/doctor"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
)

// signinConfig is what the flags of `serve` say of signing in.
type signinConfig struct {
	addr, url string
	// resources are the URLs of the endpoint of all connectors, the one that people are given first.
	resources []string
	// documentRanges are address ranges, beside the public internet, from which clients' metadata documents are fetched.
	documentRanges []string
}

func (c *signinConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.addr, "signin-addr", "127.0.0.1:7403", "where browsers and agents reach sign-in")
	f.StringVar(&c.url, "signin-url", "", "public URL of the sign-in listener, https, or http on loopback; it is the issuer of agents' tokens: where it changes, they sign in again (default: http or https and --signin-addr)")
	f.StringSliceVar(&c.resources, "resource", nil, "URL of the endpoint of all connectors that agents get tokens for: first the proxies' --resource, then --public-url and /mcp of those whose regions have names of their own")
	f.StringSliceVar(&c.documentRanges, "document-range", nil, "address ranges, beside the public internet, from which clients' metadata documents are fetched, such as 10.1.0.0/16")
}

// signinURL is where people sign in.
func (p *plane) signinURL() string {
	scheme := "http://"
	if p.tlsCert != "" {
		scheme = "https://"
	}
	return cmp.Or(p.signin.url, scheme+p.signin.addr)
}

// signInParts are the parts that browsers and agents sign in with.
type signInParts struct {
	handler http.Handler
	people  *signin.Server
	server  *authserver.Server
	uses    *authserver.Uses
	keeper  *credentials.Keeper
}

// openSignIn makes the parts that sign people in and give agents tokens.
func (p *plane) openSignIn(ctx context.Context) (*signInParts, error) {
	store, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_SIGNIN", Replicas: p.conn.Replicas()})
	if err != nil {
		return nil, err
	}
	p.sightings = &doctor.Sightings{Store: store, Key: p.vault.SightingsKey, Now: time.Now}
	people, err := signin.New(signin.Config{Engine: p.engine, Store: store, Secrets: p.vault, URL: p.signinURL(), Record: p.signInTrail(), Log: p.log})
	if err != nil {
		return nil, err
	}
	guard, err := egress.New(p.signin.documentRanges...)
	if err != nil {
		return nil, fmt.Errorf("--document-range: %w", err)
	}
	server, err := authserver.New(authserver.Config{
		Engine: p.engine, Store: store, Keys: p.vault, People: people, Audit: p.trail.Refusals(), Issuer: p.signinURL(), Resources: p.signin.resources,
		Lease: p.lease, Documents: guard.Client(0), Log: p.log,
	})
	if err != nil {
		return nil, err
	}
	if err := server.Prepare(ctx); err != nil {
		return nil, err
	}
	p.tokens = server
	mux := http.NewServeMux()
	mux.Handle("/", people.Handler())
	p.admins.Store, p.admins.People = store, people
	mux.Handle(p.admins.PagePath(), p.admins.PageHandler())
	keeper := p.openCredentials(store, people)
	path := ""
	if u, err := url.Parse(p.signinURL()); err == nil {
		path = strings.TrimRight(u.Path, "/")
	}
	if err := p.openApprovals(ctx, people, mux); err != nil {
		return nil, err
	}
	mux.Handle(path+"/oauth/", server.Handler())
	mux.Handle(path+"/connect/", keeper.Handler())
	mux.Handle("/.well-known/", server.Handler())
	if path != "" {
		mux.Handle(path+"/.well-known/", server.Handler())
	}
	return &signInParts{handler: mux, people: people, server: server, uses: authserver.NewUses(store), keeper: keeper}, nil
}

// signInTrail has audit keep what becomes of sign-ins.
func (p *plane) signInTrail() func(context.Context, signin.Event) {
	refusals := p.trail.Refusals()
	return func(ctx context.Context, e signin.Event) {
		p.sight(ctx, e)
		if rec := signInRecord(e); rec.GetKind() == auditv1.Kind_KIND_SIGN_IN {
			p.trail.Note(rec)
		} else {
			refusals.Refuse(rec)
		}
	}
}

func signInRecord(e signin.Event) *auditv1.AuditRecord {
	rec := &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN_FAILED, Method: "signin", Action: e.Outcome, Target: "directory/" + e.Directory,
		Authentication: &auditv1.Authentication{Acr: e.ACR, Amr: e.AMR},
		Decision:       &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: auditv1.Reason_REASON_TOKEN_INVALID},
	}
	switch e.Outcome {
	case signin.SignedIn, signin.SignedOut:
		rec.Kind, rec.Decision = auditv1.Kind_KIND_SIGN_IN, &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED}
	case signin.NotProvisioned:
		rec.Decision.Reason = auditv1.Reason_REASON_PERSON_UNKNOWN
	case signin.Deactivated:
		rec.Decision.Reason = auditv1.Reason_REASON_PERSON_INACTIVE
	}
	if e.Person != nil {
		rec.PersonId = e.Person.ID.String()
	}
	rec.Client = &auditv1.Client{Address: address.Of(e.Request)}
	return rec
}
