// Command browser is a person of the quickstart at a browser, by script: it opens a URL, signs in at the stand-in Okta, lets in the
// program that asked, and prints what the last page says. Programs that open a browser are given it as BROWSER or xdg-open.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/quickstart"
)

// keyPerson names who sits there, since programs pass the URL alone.
const keyPerson = "SALLYPORT_BROWSER_EMAIL"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	email := os.Getenv(keyPerson)
	if len(args) != 1 || email == "" {
		return fmt.Errorf("usage: %s=EMAIL browser URL", keyPerson)
	}
	b, err := agent.NewBrowser(quickstart.Employee(email))
	if err != nil {
		return err
	}
	page, err := b.Open(ctx, args[0])
	if err != nil {
		return err
	}
	at := *page.URL
	at.RawQuery = "" // it may hold a code
	fmt.Printf("%d %s: %s\n", page.Status, at.Redacted(), page.Text)
	return nil
}
