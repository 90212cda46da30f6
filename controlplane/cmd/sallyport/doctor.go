package main

import (
	"context"
	"time"

	"sallyport.dev/controlplane/internal/admin"
	"sallyport.dev/controlplane/internal/doctor"
	"sallyport.dev/controlplane/internal/signin"
)

// sightWithin bounds how long a sign-in waits for being remembered.
const sightWithin = 2 * time.Second

// sight remembers what the doctor needs to know of a sign-in. One that cannot be remembered is a sign-in all the same.
func (p *plane) sight(ctx context.Context, e signin.Event) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sightWithin)
	defer cancel()
	var err error
	switch e.Outcome {
	case signin.SignedIn:
		err = p.sightings.SignedIn(ctx, e.Person.ID)
	case signin.NotProvisioned:
		err = p.sightings.Stranger(ctx, e.Directory, e.Subject)
	}
	if err != nil {
		p.log.WarnContext(ctx, "a sign-in is not remembered for sallyport doctor", "error", err)
	}
}

// withDoctor adds the doctor to the admin API.
func (p *plane) withDoctor(c admin.Config, people *signin.Server) admin.Config {
	c.Doctor = doctor.New(doctor.Config{
		Engine: p.engine, Activity: p.lately, Audit: c.Audit, Secrets: p.vault, Sightings: p.sightings, RedirectURI: people.RedirectURI, Log: p.log,
	})
	return c
}
