package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

// costLimit bounds the evaluation of one condition, in CEL's units: about a millisecond of work.
const costLimit = 20_000

// condition is a `when`. It is compiled when it is first needed: a snapshot may hold more of them than a
// proxy ever evaluates.
type condition struct {
	text  string
	rules int // how many have it; Apply's alone

	once    sync.Once
	program cel.Program
	partial cel.Program // evaluates with what is unknown left out
	failed  error
	// always and never: what it gives is known without knowing anything.
	always, never bool
	// What it reads.
	roots      roots
	attributes []string
	id, groups bool // of the person
	parts      *parts
	// tick is how often time alone may change what it gives; zero: never.
	tick time.Duration
}

// notUnderstood stands for what a rule says that this build does not know.
var notUnderstood = func() *condition {
	c := &condition{failed: errors.New("a part of the rule is not known to this build: upgrade it")}
	c.once.Do(func() {})
	return c
}()

func newCondition(text string) *condition { return &condition{text: text} }

// mayMention tells whether a condition may read a variable, without compiling it.
func (c *condition) mayMention(name string) bool { return strings.Contains(c.text, name) }

// environment is the one in which conditions run. Types are checked when a rule is written, against each tool; here
// they are dynamic.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	object := cel.MapType(cel.StringType, cel.DynType)
	return cel.NewEnv(append(limits(), cel.Variable("args", object), cel.Variable("user", object), cel.Variable("tool", object),
		cel.Variable("connector", object), cel.Variable("request", object))...)
})

func limits() []cel.EnvOption {
	return []cel.EnvOption{
		cel.CrossTypeNumericComparisons(true), cel.EnableIdentifierEscapeSyntax(), ext.Network(),
		cel.ParserRecursionLimit(64), cel.ParserExpressionSizeLimit(4096),
	}
}

// compiled returns the condition, ready; failed says why it is not.
func (c *condition) compiled() *condition {
	c.once.Do(func() {
		env, err := environment()
		if err != nil {
			c.failed = fmt.Errorf("making the condition's environment: %w", err)
			return
		}
		ast, issues := env.Compile(c.text)
		if issues.Err() != nil {
			c.failed = fmt.Errorf("the condition is not valid: %s", issue(issues))
			return
		}
		if out := ast.OutputType(); !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
			c.failed = fmt.Errorf("the condition is of type %s, it must be true or false", out)
			return
		}
		r := &reading{}
		r.expression(ast.NativeRep().Expr(), nil)
		c.roots, c.attributes, c.parts, c.tick = r.roots, r.named(), partsOf(ast.NativeRep().Expr()), r.tick
		c.id, c.groups = r.id, r.groups
		if r.failed != nil {
			c.failed = r.failed
			return
		}
		options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
		if !bounded(ast.NativeRep().Expr()) { // to count the work costs more than a simple condition does
			options = append(options, cel.CostLimit(costLimit))
		}
		if c.program, err = env.Program(ast, options...); err != nil {
			c.failed = fmt.Errorf("the condition is not valid: %w", err)
			return
		}
		c.judge(env, ast)
	})
	return c
}

// judge evaluates the condition with all of it unknown: what it gives then, it gives always.
func (c *condition) judge(env *cel.Env, ast *cel.Ast) {
	program, err := env.Program(ast, cel.EvalOptions(cel.OptPartialEval), cel.CostLimit(costLimit))
	if err != nil {
		return
	}
	c.partial = program
	unknown, err := cel.PartialVars(map[string]any{}, unknowns(allRoots)...)
	if err != nil {
		return
	}
	out, _, err := program.Eval(unknown)
	if value, ok := out.(types.Bool); ok && err == nil {
		c.always, c.never = bool(value), !bool(value)
	}
}

// certain tells whether the condition holds, or does not, whatever is asked.
func (c *condition) certain() (always, never bool) {
	c.compiled()
	return c.always, c.never
}

// holds evaluates the condition. An error is a condition that cannot be evaluated: a value that is not
// there or of another type, or more work than the limit.
func (c *condition) holds(f *facts, r *Request) (bool, error) {
	if c.compiled().failed != nil {
		return false, c.failed
	}
	if f.known != nil && !f.known.cover(c.parts) {
		f.missed = true
		return false, errNotRecalled
	}
	if c.roots&^argsRoot == 0 {
		return c.evaluate(f.args)
	}
	return c.evaluate(f.with(r))
}

func (c *condition) evaluate(on interpreter.Activation) (bool, error) {
	out, _, err := c.program.Eval(on)
	if err != nil {
		return false, evaluationError(err)
	}
	value, ok := out.(types.Bool)
	if !ok {
		return false, errors.New("the condition is not true or false")
	}
	return bool(value), nil
}

// outcome is what can be said of a condition where something is unknown.
type outcome uint8

const (
	perhaps outcome = iota
	surely
	surelyNot
	surelyFails
)

// without says what the condition gives whatever the unknown variables are.
func (c *condition) without(f *facts, r *Request, unknown roots) outcome {
	switch c.compiled(); {
	case c.failed != nil:
		return surelyFails
	case c.always:
		return surely
	case c.never:
		return surelyNot
	case c.roots&^unknown == 0 || c.partial == nil:
		return perhaps
	}
	vars, err := cel.PartialVars(f.with(r), unknowns(unknown)...)
	if err != nil {
		return perhaps
	}
	out, _, err := c.partial.Eval(vars)
	if err != nil {
		if strings.Contains(err.Error(), "cost limit") { // less may be looked at where more is known
			return perhaps
		}
		return surelyFails
	}
	switch value, ok := out.(types.Bool); {
	case !ok:
		return perhaps
	case bool(value):
		return surely
	}
	return surelyNot
}

// bounded tells whether an expression's work is bounded by its own size and that of what it reads: it has
// no loop and no regular expression, and builds nothing longer than what it read.
func bounded(e celast.Expr) bool {
	all := func(parts []celast.Expr) bool {
		return !slices.ContainsFunc(parts, func(part celast.Expr) bool { return !bounded(part) })
	}
	switch e.Kind() {
	case celast.IdentKind, celast.LiteralKind:
		return true
	case celast.SelectKind:
		return bounded(e.AsSelect().Operand())
	case celast.ListKind:
		return all(e.AsList().Elements())
	case celast.CallKind:
		c := e.AsCall()
		if c.FunctionName() == overloads.Matches || c.FunctionName() == operators.Add {
			return false
		}
		return (!c.IsMemberFunction() || bounded(c.Target())) && all(c.Args())
	}
	return false
}

// issue is the first thing that is wrong with an expression, on one line.
func issue(issues *cel.Issues) string {
	if all := issues.Errors(); len(all) > 0 {
		return fmt.Sprintf("at column %d: %s", all[0].Location.Column()+1, all[0].Message)
	}
	return issues.Err().Error()
}

// evaluationError says why a condition could not be evaluated, without what it read.
func evaluationError(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "no such key"):
		return errors.New("the condition reads what is not there")
	case strings.Contains(text, "cost limit"):
		return errors.New("the condition takes more work than its limit")
	}
	return errors.New("the condition cannot be evaluated on what is given")
}
