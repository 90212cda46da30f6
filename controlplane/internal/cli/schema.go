package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"github.com/google/jsonschema-go/jsonschema"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func schemaCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of policy files, for editors", Args: cobra.NoArgs,
		Long: "Print the JSON Schema (draft 2020-12) of a document of a policy file. With the YAML language server, a file's first line names it:\n" +
			"  # yaml-language-server: $schema=policy.schema.json",
		Example: "  sallyport policy schema > policy.schema.json",
		RunE: func(*cobra.Command, []string) error {
			s, err := policySchema()
			if err != nil {
				return err
			}
			data, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(o.out, "%s\n", data)
			return err
		},
	}
}

// policySchema is made of the types that documents are read into, and of what the API's messages say of their fields.
func policySchema() (*jsonschema.Schema, error) {
	whole := &jsonschema.Schema{Schema: "https://json-schema.org/draft/2020-12/schema", Title: "Sallyport policy", Type: "object", Required: []string{"kind"}}
	kinds := &jsonschema.Schema{}
	for _, kind := range slices.Sorted(maps.Keys(documents)) {
		kinds.Enum = append(kinds.Enum, kind)
		of, err := kindSchema(kind)
		if err != nil {
			return nil, fmt.Errorf("the schema of a %s: %w", kind, err)
		}
		// By if and then an editor says what is wrong with a document of this kind, not that it is of none.
		whole.AllOf = append(whole.AllOf, &jsonschema.Schema{
			If:   &jsonschema.Schema{Properties: map[string]*jsonschema.Schema{"kind": {Const: jsonschema.Ptr[any](kind)}}, Required: []string{"kind"}},
			Then: of,
		})
	}
	whole.Properties = map[string]*jsonschema.Schema{"kind": kinds}
	return whole, nil
}

// messages are those whose fields a document of a kind has.
var messages = map[string]proto.Message{"AuditExporter": &policyv1.AuditExporter{}, "Connector": &policyv1.Connector{}, "RuleSet": &policyv1.RuleSet{}, "Grant": &adminv1.Grant{}}

func kindSchema(kind string) (*jsonschema.Schema, error) {
	s, err := jsonschema.ForType(reflect.TypeOf(documents[kind]()).Elem(), &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[length](): {Type: "string", Pattern: `^([0-9]+([.][0-9]+)?(ns|us|µs|ms|s|m|h))+$`},
		reflect.TypeFor[moment](): {Type: "string", Pattern: `^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2}))?$`},
		reflect.TypeFor[uint64](): {Type: "integer", Minimum: jsonschema.Ptr(0.0)},
		reflect.TypeFor[uint32](): {Type: "integer", Minimum: jsonschema.Ptr(0.0), Maximum: jsonschema.Ptr(4294967295.0)},
	}})
	if err != nil {
		return nil, err
	}
	s.Properties["kind"] = &jsonschema.Schema{Const: jsonschema.Ptr[any](kind)}
	if err := constrain(s, messages[kind].ProtoReflect().Descriptor()); err != nil {
		return nil, err
	}
	switch kind {
	case "AuditExporter":
		s.Properties["target"].Enum, s.Properties["format"].Enum = enum(exportTargets), enum(exportFormats)
		return s, nil
	case "Connector":
		s.Properties["transport"].Enum = enum(transports)
		s.Properties["consent"].Items.Enum = enum(consents)
		return s, constrainAuth(s.Properties["auth"])
	case "Grant":
		for _, to := range []string{"group", "person", "serviceAccount", "everyone"} {
			s.OneOf = append(s.OneOf, &jsonschema.Schema{Required: []string{to}})
		}
		s.AnyOf = []*jsonschema.Schema{{Required: []string{"rules"}}, {Required: []string{"ruleSets"}}}
	}
	constrainRule(s.Properties["rules"].Items)
	return s, nil
}

func constrainRule(r *jsonschema.Schema) {
	r.Properties["after"].Enum = []any{"confirm", "review"}
	r.Properties["require"].Enum = enum(duties)
	r.Properties["assurance"].Enum = enum(assurances)
	r.OneOf = []*jsonschema.Schema{{Required: []string{"allow"}}, {Required: []string{"deny"}}, {Required: []string{"require"}}}
	r.DependentRequired = map[string][]string{"require": {"tools"}, "tools": {"require"}}
}

func constrainAuth(a *jsonschema.Schema) error {
	a.Properties["type"].Enum = []any{"none", "header", "query", "oauth", "service-account", "token-exchange", "identity-assertion", "pass-through"}
	a.Properties["keysOf"].Enum = enum(keyHolders)
	a.Properties["kit"].Enum = enum(kits)
	a.Properties["token"].Enum = enum(idTokens)
	a.Properties["client"].Properties["authentication"].Enum = enum(clientProofs)
	a.Properties["server"].Properties["revocation"].Enum = enum(revocations)
	for _, part := range []struct {
		of      string
		message proto.Message
	}{{"server", &policyv1.UpstreamAuthorizationServer{}}, {"client", &policyv1.UpstreamClient{}}, {"account", &policyv1.AccountRule{}}} {
		if err := constrain(a.Properties[part.of], part.message.ProtoReflect().Descriptor()); err != nil {
			return err
		}
	}
	header, query := (&policyv1.UpstreamAuth_StaticHeader{}).ProtoReflect().Descriptor().Fields(), (&policyv1.QueryKey{}).ProtoReflect().Descriptor().Fields()
	scopes := (&policyv1.OAuth{}).ProtoReflect().Descriptor().Fields().ByName("scopes")
	for name, field := range map[string]protoreflect.FieldDescriptor{"header": header.ByName("name"), "template": header.ByName("template"), "query": query.ByName("name"), "scopes": scopes} {
		if err := constrainField(a.Properties[name], field); err != nil {
			return err
		}
	}
	return nil
}

func enum[T any](known map[string]T) []any {
	var all []any
	for _, word := range wordsOf(known) {
		all = append(all, word)
	}
	return all
}

// constrain takes over what the validation of a message says of the fields that have the names of a schema's properties.
func constrain(s *jsonschema.Schema, m protoreflect.MessageDescriptor) error {
	for name, property := range s.Properties {
		field := m.Fields().ByJSONName(name)
		if field == nil {
			continue
		}
		if err := constrainField(property, field); err != nil {
			return err
		}
		inner := property
		if field.IsList() {
			inner = property.Items
		}
		if field.Message() != nil && len(inner.Properties) > 0 {
			if err := constrain(inner, field.Message()); err != nil {
				return err
			}
		}
	}
	return nil
}

func constrainField(s *jsonschema.Schema, field protoreflect.FieldDescriptor) error {
	rules, err := protovalidate.ResolveFieldRules(field)
	if err != nil || rules == nil {
		return err
	}
	if list := rules.GetRepeated(); list != nil && s.Items != nil {
		s.MinItems, s.MaxItems, s.UniqueItems = count(list.MinItems), count(list.MaxItems), list.GetUnique()
		constrainString(s.Items, list.GetItems().GetString())
	}
	constrainString(s, rules.GetString())
	if n := rules.GetUint32(); n != nil {
		if _, ok := n.GetLessThan().(*validate.UInt32Rules_Lte); ok {
			s.Maximum = jsonschema.Ptr(float64(n.GetLte()))
		}
	}
	return nil
}

func constrainString(s *jsonschema.Schema, rules *validate.StringRules) {
	if rules == nil || s.Type == "array" {
		return
	}
	s.MinLength, s.MaxLength = count(rules.MinLen), count(rules.MaxLen)
	if rules.Pattern != nil {
		s.Pattern = rules.GetPattern()
	}
}

func count(n *uint64) *int {
	if n == nil {
		return nil
	}
	return jsonschema.Ptr(int(*n))
}
