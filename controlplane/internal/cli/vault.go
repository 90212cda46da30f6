package cli

import (
	"encoding/base64"
	"fmt"

	"github.com/spf13/cobra"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"

	"sallyport.dev/controlplane/internal/vault"
)

func vaultCommand(o *options) *cobra.Command {
	rotate := &cobra.Command{
		Use: "rotate", Short: "Make a new key-encryption key and wrap all data keys by it anew, while everything is in use", Args: cobra.NoArgs,
		Long: "Make a new key-encryption key and wrap all data keys by it anew, while everything is in use.\n\n" +
			"The keys before are destroyed a few minutes later, when no control plane can wrap with them any more: see `sallyport vault status`.\n" +
			"The new keys are sealed by the first --vault-key of the control plane that is asked.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewVaultServiceClient, adminv1connect.VaultServiceClient.RotateVaultKey,
				&adminv1.RotateVaultKeyRequest{}, func(r *adminv1.RotateVaultKeyResponse) table { return vaultTable(r.GetStatus()) })
		},
	}
	status := &cobra.Command{
		Use: "status", Short: "Say where the last rotation stands", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return call(cmd.Context(), o, adminv1connect.NewVaultServiceClient, adminv1connect.VaultServiceClient.GetVaultStatus,
				&adminv1.GetVaultStatusRequest{}, func(r *adminv1.GetVaultStatusResponse) table { return vaultTable(r.GetStatus()) })
		},
	}
	newKey := &cobra.Command{
		Use: "new-key", Short: "Print a new key for `sallyport serve --vault-key env:NAME`, in base64; it is kept nowhere", Args: cobra.NoArgs,
		Example: "  sallyport vault new-key | kubectl create secret generic sallyport-vault --from-file=key=/dev/stdin",
		RunE: func(*cobra.Command, []string) error {
			key, err := vault.NewKey()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(o.out, base64.StdEncoding.EncodeToString(key))
			return err
		},
	}
	return parent("vault", "Keys of the vault, in which secrets lie", rotate, status, newKey)
}

func vaultTable(s *adminv1.VaultStatus) table {
	state := "complete"
	if s.GetOldKeys() > 0 || s.GetDataKeysOfOld() > 0 {
		state = "under way"
	}
	return table{head: []string{"KEY", "ROTATION", "OLD KEYS", "DATA KEYS", "WRAPPED BY OLD KEYS"}, rows: [][]string{
		{fmt.Sprint(s.GetKeyId()), state, fmt.Sprint(s.GetOldKeys()), fmt.Sprint(s.GetDataKeys()), fmt.Sprint(s.GetDataKeysOfOld())},
	}}
}
