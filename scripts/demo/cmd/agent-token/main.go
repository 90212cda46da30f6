// Command agent-token prints an access token for a person of the running quickstart, by the flow of any agent: it
// signs the person in at the stand-in Okta and lets the program in.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/quickstart"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	token, err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "agent-token:", err)
		os.Exit(1)
	default:
		fmt.Println(token)
	}
}

func run(ctx context.Context, args []string) (string, error) {
	flags := flag.NewFlagSet("agent-token", flag.ContinueOnError)
	env := flags.String("env", "", "env `FILE` that the quickstart wrote (--env)")
	dataDir := flags.String("data-dir", "", "data `DIR` of the quickstart (--data-dir)")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: agent-token [--env FILE | --data-dir DIR] EMAIL")
		fmt.Fprintln(flags.Output(), "Without a flag: "+quickstart.KeyMCPUSEast+" from the environment, else the quickstart that was started last.")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return "", err
	}
	if flags.NArg() != 1 {
		return "", errors.New("name one person by email, such as maya.chen@acme.example")
	}
	gateway, err := findGateway(*env, *dataDir)
	if err != nil {
		return "", err
	}
	program := agent.Program{Name: "agent-token"}
	tokens, err := program.SignIn(ctx, gateway, quickstart.Employee(flags.Arg(0)))
	if err != nil {
		return "", err
	}
	return tokens.Access, nil
}

func findGateway(env, dataDir string) (string, error) {
	file := env
	if dataDir != "" {
		file = quickstart.StateOf(dataDir)
	}
	if file == "" {
		if gateway := os.Getenv(quickstart.KeyMCPUSEast); gateway != "" {
			return gateway, nil
		}
		last, err := quickstart.LastRun()
		if err != nil {
			return "", err
		}
		file = last
	}
	values, err := quickstart.ReadEnv(file)
	if err != nil {
		return "", fmt.Errorf("find the running quickstart (start ./scripts/quickstart, or name it by --env or --data-dir): %w", err)
	}
	if values[quickstart.KeyMCPUSEast] == "" {
		return "", fmt.Errorf("%s names no %s", file, quickstart.KeyMCPUSEast)
	}
	return values[quickstart.KeyMCPUSEast], nil
}
