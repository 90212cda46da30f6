package natsconn

import (
	"fmt"
	"reflect"

	"github.com/nats-io/nats-server/v2/server"
)

// Reader is who may connect to the embedded server at Listen with a key, and what it may do there.
type Reader struct {
	PublicKey          string
	Publish, Subscribe []string
}

// SetReaders says who may read. Whoever is no more among them is disconnected. An external cluster knows its
// clients by itself: there it does nothing.
func (c *Conn) SetReaders(readers []Reader) error {
	if c.server == nil {
		return nil
	}
	return c.server.setReaders(readers)
}

// Listens tells whether others can reach the server: the embedded one where it was given an address.
func (c *Conn) Listens() bool { return c.server == nil || c.server.config.Listen != "" }

func (e *embedded) setReaders(readers []Reader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if reflect.DeepEqual(e.readers, readers) {
		return nil
	}
	was := e.readers
	e.readers = readers
	options, err := e.options()
	if err == nil {
		err = e.srv.ReloadOptions(options)
	}
	if err != nil {
		e.readers = was
		return fmt.Errorf("telling the embedded NATS server who may read: %w", err)
	}
	return nil
}

func (r Reader) user() *server.NkeyUser {
	return &server.NkeyUser{Nkey: r.PublicKey, Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: r.Publish}, Subscribe: &server.SubjectPermission{Allow: r.Subscribe},
	}}
}
