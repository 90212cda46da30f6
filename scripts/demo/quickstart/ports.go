package quickstart

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
)

// portNames are what listens, as --ports names it.
var portNames = []string{"scim", "admin", "fleet", "signin", "nats", "okta", "us-east", "eu-west"}

// ParsePorts reads "scim=8081,admin=8082,…". Ports that are not named are chosen free.
func ParsePorts(text string) (map[string]int, error) {
	ports := map[string]int{}
	if text == "" {
		return ports, nil
	}
	for _, part := range strings.Split(text, ",") {
		name, number, ok := strings.Cut(strings.TrimSpace(part), "=")
		port, err := strconv.Atoi(number)
		if !ok || err != nil || port < 1 || port > 65535 {
			return nil, fmt.Errorf("--ports: %q is not NAME=PORT", part)
		}
		if !slices.Contains(portNames, name) {
			return nil, fmt.Errorf("--ports: %q is none of %s", name, strings.Join(portNames, ", "))
		}
		ports[name] = port
	}
	return ports, nil
}

// addresses gives each name a loopback address, free at this moment where no port was given.
func addresses(ctx context.Context, given map[string]int) (map[string]string, error) {
	out := map[string]string{}
	var held []net.Listener // all are held until all are chosen, so that none comes twice
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for _, name := range portNames {
		l, err := listen(ctx, given[name])
		if err != nil {
			return nil, fmt.Errorf("the port for %s: %w", name, err)
		}
		held = append(held, l)
		out[name] = l.Addr().String()
	}
	return out, nil
}

// listen takes a port, of those below the ones that a system gives to outgoing connections where none is given: it is let go
// before its program takes it, and must not be given away in between.
func listen(ctx context.Context, port int) (l net.Listener, err error) {
	const from, to, tries = 26000, 32700, 100
	for range tries {
		candidate := port
		if port == 0 {
			candidate = from + rand.IntN(to-from)
		}
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", candidate)); err == nil || port != 0 {
			return l, err
		}
	}
	return nil, err
}
