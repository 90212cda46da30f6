package quickstart

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The keys of an env file.
const (
	KeySCIMURL    = "SALLYPORT_SCIM_URL"
	KeySCIMToken  = "SALLYPORT_SCIM_TOKEN"
	KeyAdminURL   = "SALLYPORT_ADMIN_URL"
	KeyAdminToken = "SALLYPORT_ADMIN_TOKEN"
	KeyFleetURL   = "SALLYPORT_FLEET_URL"
	KeyIssuer     = "SALLYPORT_IDP_ISSUER"
	KeySignInURL  = "SALLYPORT_SIGNIN_URL"
	KeyMCPUSEast  = "SALLYPORT_MCP_URL_US_EAST"
	KeyMCPEUWest  = "SALLYPORT_MCP_URL_EU_WEST"
	KeyNATSURL    = "SALLYPORT_NATS_URL"
)

var envKeys = []string{KeySCIMURL, KeySCIMToken, KeyAdminURL, KeyAdminToken, KeyFleetURL, KeyIssuer, KeySignInURL, KeyMCPUSEast, KeyMCPEUWest, KeyNATSURL}

// stateFile is the name of the env file in a data folder.
const stateFile = "quickstart.env"

// WriteEnv writes KEY=VALUE lines, whole or not at all, for the owner alone: it holds tokens.
func WriteEnv(path string, values map[string]string) error {
	var text strings.Builder
	for _, key := range envKeys {
		if v, ok := values[key]; ok {
			fmt.Fprintf(&text, "%s=%s\n", key, v)
		}
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, ".env-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone after the rename
	_, err = f.WriteString(text.String())
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// ReadEnv reads KEY=VALUE lines; empty lines and comments are skipped.
func ReadEnv(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the env file: %w", err)
	}
	defer func() { _ = f.Close() }()
	values := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not KEY=VALUE", path, short(key, 40))
		}
		values[key] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return values, nil
}

// LastRun is where the running quickstart says how to reach it: in the user's cache folder, without its tokens.
func LastRun() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(dir, "sallyport", stateFile), nil
}

// StateOf is the env file in a data folder.
func StateOf(dataDir string) string { return filepath.Join(dataDir, stateFile) }
