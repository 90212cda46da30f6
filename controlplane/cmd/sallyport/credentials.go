package main

import (
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
)

// openCredentials makes the keeper of upstream credentials. What identity providers give at a sign-in goes to it.
func (p *plane) openCredentials(store *kv.Store, people *signin.Server) *credentials.Keeper {
	k := credentials.New(credentials.Config{
		Engine: p.engine, Store: store, Vault: p.vault, People: people, Trail: p.trail, URL: p.signinURL(), Log: p.log,
	})
	people.Keep = k.KeepIdentity
	return k
}
