package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Check refuses a rule that is wrong in itself, or whose condition does not fit a tool that the rule
// matches: each property that it reads must be in the tool's input schema and required there, or be asked
// for by has() first. Without tools only the rule itself is checked.
func Check(r *policyv1.Rule, tools []*policyv1.Tool) error {
	if err := checkEffect(r); err != nil {
		return err
	}
	when := newCondition(r.GetWhen())
	if r.GetWhen() != "" {
		if err := when.compiled().failed; err != nil {
			return fmt.Errorf("the rule that %s: %w", said(r), err)
		}
	}
	globs := globsOf(r)
	for _, g := range globs {
		if err := checkGlob(g); err != nil {
			return err
		}
		if labelled(g) {
			if err := checkLabelled(g, r, when); err != nil {
				return err
			}
		}
	}
	if err := checkRedact(r, tools); err != nil {
		return err
	}
	if err := checkLimit(r); err != nil {
		return err
	}
	if r.GetWhen() == "" {
		return nil
	}
	if err := checkAgainst(r.GetWhen(), nil); err != nil {
		return fmt.Errorf("the rule that %s: %w", said(r), err)
	}
	for _, t := range tools {
		if t.GetKind() > policyv1.Kind_KIND_TOOL || !matchAny(globs, t.GetName()) {
			continue
		}
		if matched, known := fits(r.GetHints(), newTool("", t)); known && !matched {
			continue
		}
		if err := checkAgainst(r.GetWhen(), t); err != nil {
			return fmt.Errorf("the rule that %s, for tool %q: %w", said(r), t.GetName(), err)
		}
	}
	return nil
}

// checkEffect refuses a rule that does not do exactly one thing, or says of it what belongs to another.
func checkEffect(r *policyv1.Rule) error {
	allow, deny, require := len(r.GetAllow()) > 0, len(r.GetDeny()) > 0, r.GetRequire() != 0
	switch {
	case !allow && !deny && !require, allow && deny, allow && require, deny && require, (len(r.GetTools()) > 0) != require:
		return errors.New("a rule does exactly one of these: it names tools under allow, or under deny, or says what to require of those under tools")
	case r.GetRuleSet() != "":
		return errors.New("a rule does not say which rule set it is from")
	case r.GetAfter() != 0 && !allow:
		return fmt.Errorf("the rule that %s says after, which is for rules that allow", said(r))
	case !knownDuties(r), r.GetAssurance() > policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER:
		return fmt.Errorf("the rule that %s asks for what this build does not know: upgrade it", said(r))
	case r.GetAssurance() != 0 && dutyOf(r) != policyv1.Duty_DUTY_CONFIRM:
		return fmt.Errorf("the rule that %s says assurance, which is for confirmations", said(r))
	case (r.GetReview() != nil) != (dutyOf(r) == policyv1.Duty_DUTY_REVIEW):
		return fmt.Errorf("the rule that %s: a review, and nothing else, names its approvers under review", said(r))
	case r.GetReview() != nil && len(r.GetReview().GetApprovers()) == 0:
		return fmt.Errorf("the rule that %s names nobody who may approve", said(r))
	case r.GetReview().GetApprovals() > maxApprovals:
		return fmt.Errorf("the rule that %s asks for more than %d approvals", said(r), maxApprovals)
	case r.GetSignIn() != nil && deny, (r.GetRequire() == policyv1.Duty_DUTY_SIGN_IN) != (require && r.GetSignIn() != nil):
		return fmt.Errorf("the rule that %s: signIn is for rules that allow, and for those that require: sign-in", said(r))
	case r.GetSignIn() != nil && len(r.GetSignIn().GetAcr())+len(r.GetSignIn().GetAmr()) == 0 && r.GetSignIn().GetMaxAge().AsDuration() <= 0:
		return fmt.Errorf("the rule that %s: signIn says how: acr, amr or maxAge", said(r))
	case r.GetSignIn().GetMaxAge() != nil && r.GetSignIn().GetMaxAge().AsDuration() < minMaxAge:
		return fmt.Errorf("the rule that %s: signIn.maxAge is %s or more, or nobody would be done signing in", said(r), minMaxAge)
	case r.GetUntil() != nil && !r.GetUntil().IsValid():
		return fmt.Errorf("the rule that %s ends at no time", said(r))
	}
	return nil
}

// maxApprovals bounds how many people must approve.
const maxApprovals = 10

// minMaxAge is the shortest time in which somebody can sign in and call.
const minMaxAge = time.Minute

// knownDuties tells whether this build knows what a rule asks for.
func knownDuties(r *policyv1.Rule) bool {
	switch r.GetRequire() {
	case policyv1.Duty_DUTY_SIGN_IN, policyv1.Duty_DUTY_REDACT, policyv1.Duty_DUTY_LIMIT:
	default:
		if r.GetRequire() > policyv1.Duty_DUTY_REVIEW {
			return false
		}
	}
	return r.GetAfter() <= policyv1.Duty_DUTY_REVIEW
}

// dutyOf is what a rule asks for, whether it allows or requires.
func dutyOf(r *policyv1.Rule) policyv1.Duty { return max(r.GetAfter(), r.GetRequire()) }

// globsOf are those of a rule, whatever it does.
func globsOf(r *policyv1.Rule) []string {
	return slices.Concat(r.GetAllow(), r.GetDeny(), r.GetTools())
}

// checkGlob refuses a glob that is wrong in itself.
func checkGlob(g string) error {
	if !labelled(g) {
		if g == "" || len(g) > 128 || strings.ContainsFunc(g, func(c rune) bool { return !isToolRune(c) && c != '*' && c != '?' }) {
			return fmt.Errorf("%q is no tool name or glob: letters, digits, '_', '-', '.', with * for any run and ? for one", clip(g))
		}
		return nil
	}
	switch _, rest := KindOf(g); {
	case strings.HasPrefix(g, templateWord):
		return fmt.Errorf("%q: templates are listed as the URIs are allowed that they make, by globs that begin with resource:…", clip(g))
	case rest == "" || len(rest) > maxName || strings.ContainsFunc(rest, unicode.IsControl):
		return fmt.Errorf("%q is no glob: prompt: and a prompt's name, or resource: and a URI, with * for any run and ? for one", clip(g))
	}
	return nil
}

// checkLabelled refuses what a rule about prompts or resources cannot say.
func checkLabelled(glob string, r *policyv1.Rule, when *condition) error {
	switch {
	case when.roots&(argsRoot|toolRoot) != 0:
		return fmt.Errorf("the condition reads a tool, or its arguments: give %q a rule of its own, whose condition does not", clip(glob))
	case r.GetHints() != nil:
		return fmt.Errorf("hints are those of tools: give %q a rule of its own, without them", clip(glob))
	}
	return nil
}

// said names a rule by what it does.
func said(r *policyv1.Rule) string {
	names := clip(strings.Join(globsOf(r), ", "))
	switch {
	case len(r.GetDeny()) > 0:
		return "denies " + names
	case r.GetRequire() != 0:
		return "requires something of " + names
	}
	return "allows " + names
}

func isToolRune(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'
}

// checkAgainst type-checks a condition against one tool's schema. Nil: against all but arguments.
func checkAgainst(when string, t *policyv1.Tool) error {
	base, err := types.NewRegistry()
	if err != nil {
		return fmt.Errorf("making a type registry: %w", err)
	}
	p := &schemaTypes{Registry: base, objects: map[string]*shape{}, names: map[*shape]string{}}
	args := types.NewMapType(types.StringType, types.DynType)
	if t != nil {
		schema, err := readSchema(t)
		if err != nil {
			return err
		}
		shape, err := shapeOf(schema)
		if err != nil {
			return err
		}
		args = p.object(shape)
	}
	options := append(limits(), cel.CustomTypeProvider(p), cel.Variable("args", args))
	for name, shape := range ownShapes {
		options = append(options, cel.Variable(name, p.object(shape)))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return fmt.Errorf("making the condition's environment: %w", err)
	}
	ast, issues := env.Compile(when)
	if issues.Err() != nil {
		return fmt.Errorf("the condition does not fit its schema: %s%s", issue(issues), advice(issues))
	}
	w := &reads{types: p, ast: ast.NativeRep()}
	w.walk(ast.NativeRep().Expr(), nil)
	return w.failed
}

// advice says what to write instead, where that is known.
func advice(issues *cel.Issues) string {
	text := issues.Err().Error()
	if strings.Contains(text, "(double, int)") || strings.Contains(text, "(int, double)") {
		return " (a property of type number is compared with 5.0, one of type integer with 5)"
	}
	for name, shape := range ownShapes {
		if strings.Contains(text, "undefined field") && strings.Contains(firstLine(issues.Err()), name+".") {
			return fmt.Sprintf(" (%s has %s)", name, shape.fieldsOf())
		}
	}
	return ""
}

// schemaTypes tells CEL's checker what a JSON schema says of objects.
type schemaTypes struct {
	*types.Registry
	objects map[string]*shape
	names   map[*shape]string
}

// object is the type of an object's shape.
func (p *schemaTypes) object(s *shape) *types.Type {
	name, ok := p.names[s]
	if !ok {
		name = "schema.object" + strconv.Itoa(len(p.objects))
		p.objects[name], p.names[s] = s, name
	}
	return types.NewObjectType(name)
}

// typeOf is the CEL type of a shape, dynamic where the schema does not pin one.
func (p *schemaTypes) typeOf(s *shape, depth int) *types.Type {
	if s == nil || depth > maxSchemaDepth {
		return types.DynType
	}
	switch s.kind {
	case text:
		return types.StringType
	case boolean:
		return types.BoolType
	case integer:
		return types.IntType
	case number:
		return types.DoubleType
	case instant:
		return types.TimestampType
	case array:
		return types.NewListType(p.typeOf(s.items, depth+1))
	case object:
		if len(s.fields) > 0 {
			return p.object(s)
		}
		return types.NewMapType(types.StringType, types.DynType)
	}
	return types.DynType
}

// FindStructType knows the schema's objects.
func (p *schemaTypes) FindStructType(name string) (*types.Type, bool) {
	if p.objects[name] != nil {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

// FindStructFieldNames lists an object's properties.
func (p *schemaTypes) FindStructFieldNames(name string) ([]string, bool) {
	if o := p.objects[name]; o != nil {
		return slices.Sorted(maps.Keys(o.fields)), true
	}
	return p.Registry.FindStructFieldNames(name)
}

// FindStructFieldType is a property's type. One that the schema does not name may be asked for by has():
// reading it otherwise is refused by the walk after the check.
func (p *schemaTypes) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	o := p.objects[name]
	if o == nil {
		return p.Registry.FindStructFieldType(name, field)
	}
	if o.closed && o.fields[field] == nil {
		return nil, false
	}
	return &types.FieldType{Type: p.typeOf(o.fields[field], 0)}, true
}

// NewValue makes no schema objects: a condition only reads them.
func (p *schemaTypes) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if p.objects[name] != nil {
		return types.NewErr("a condition cannot make a %s", name)
	}
	return p.Registry.NewValue(name, fields)
}

// reads finds reads of properties that may not be there. A guard is a path that has() was asked of.
type reads struct {
	types  *schemaTypes
	ast    *celast.AST
	failed error
}

func (w *reads) walk(e celast.Expr, guards []string) {
	switch e.Kind() {
	case celast.SelectKind:
		s := e.AsSelect()
		w.walk(s.Operand(), guards)
		if !s.IsTestOnly() {
			w.read(s, guards)
		}
	case celast.CallKind:
		w.call(e.AsCall(), guards)
	case celast.ListKind:
		for _, element := range e.AsList().Elements() {
			w.walk(element, guards)
		}
	case celast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			w.walk(entry.AsMapEntry().Key(), guards)
			w.walk(entry.AsMapEntry().Value(), guards)
		}
	case celast.ComprehensionKind:
		c := e.AsComprehension()
		w.walk(c.IterRange(), guards)
		w.walk(c.AccuInit(), guards)
		// Within, a variable may bear the name of one outside, of which something was asked.
		inner := slices.DeleteFunc(slices.Clone(guards), func(path string) bool {
			root, _, _ := strings.Cut(path, ".")
			return root == c.IterVar() || root == c.IterVar2() || root == c.AccuVar()
		})
		for _, part := range []celast.Expr{c.LoopCondition(), c.LoopStep(), c.Result()} {
			w.walk(part, inner)
		}
	}
}

func (w *reads) call(c celast.CallExpr, guards []string) {
	args := c.Args()
	switch c.FunctionName() {
	case operators.LogicalAnd: // an error on one side does not count when the other is false
		w.walk(args[0], slices.Concat(guards, whenTrue(args[1])))
		w.walk(args[1], slices.Concat(guards, whenTrue(args[0])))
	case operators.LogicalOr:
		w.walk(args[0], slices.Concat(guards, whenFalse(args[1])))
		w.walk(args[1], slices.Concat(guards, whenFalse(args[0])))
	case operators.Conditional:
		w.walk(args[0], guards)
		w.walk(args[1], slices.Concat(guards, whenTrue(args[0])))
		w.walk(args[2], slices.Concat(guards, whenFalse(args[0])))
	default:
		if c.IsMemberFunction() {
			w.walk(c.Target(), guards)
		}
		for _, a := range args {
			w.walk(a, guards)
		}
	}
}

// read refuses a property that is not certain to be there.
func (w *reads) read(s celast.SelectExpr, guards []string) {
	o := w.types.objects[w.ast.GetType(s.Operand().ID()).TypeName()]
	path := pathOf(s.Operand()) + "." + s.FieldName()
	if o == nil || w.failed != nil || o.required[s.FieldName()] || slices.Contains(guards, path) {
		return
	}
	why := "may be omitted"
	if _, named := o.known[s.FieldName()]; o.closed {
		why = "is not always there"
	} else if !named {
		why = "is not in the tool's schema"
	}
	w.failed = fmt.Errorf("the condition reads %s, which %s: ask first, as in has(%s) && …", path, why, path)
}

// whenTrue are the paths that are there if an expression is true.
func whenTrue(e celast.Expr) []string {
	switch e.Kind() {
	case celast.SelectKind:
		if s := e.AsSelect(); s.IsTestOnly() {
			return []string{pathOf(s.Operand()) + "." + s.FieldName()}
		}
	case celast.CallKind:
		c := e.AsCall()
		switch c.FunctionName() {
		case operators.LogicalAnd:
			return append(whenTrue(c.Args()[0]), whenTrue(c.Args()[1])...)
		case operators.LogicalNot:
			return whenFalse(c.Args()[0])
		}
	}
	return nil
}

// whenFalse are the paths that are there if an expression is false.
func whenFalse(e celast.Expr) []string {
	if e.Kind() != celast.CallKind {
		return nil
	}
	c := e.AsCall()
	switch c.FunctionName() {
	case operators.LogicalOr:
		return append(whenFalse(c.Args()[0]), whenFalse(c.Args()[1])...)
	case operators.LogicalNot:
		return whenTrue(c.Args()[0])
	}
	return nil
}

func pathOf(e celast.Expr) string {
	switch e.Kind() {
	case celast.IdentKind:
		return e.AsIdent()
	case celast.SelectKind:
		return pathOf(e.AsSelect().Operand()) + "." + e.AsSelect().FieldName()
	}
	return fmt.Sprintf("<%d>", e.ID()) // stands for itself and is equal to no other
}
