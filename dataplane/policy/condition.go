package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/interpreter"
)

// costLimit bounds the evaluation of one condition, in CEL's units: about a millisecond of work.
const costLimit = 20_000

// condition is a `when`, ready to be evaluated.
type condition struct {
	text    string
	program cel.Program
}

// environment is the one in which conditions run: `args` is what the call says. Types are checked when a
// rule is written, against each tool; here they are dynamic.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(append(limits(), cel.Variable("args", cel.MapType(cel.StringType, cel.DynType)))...)
})

func limits() []cel.EnvOption {
	return []cel.EnvOption{
		cel.CrossTypeNumericComparisons(true), cel.ParserRecursionLimit(64), cel.ParserExpressionSizeLimit(4096),
	}
}

func compileCondition(text string) (*condition, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("making the condition's environment: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("the condition is not valid: %s", issue(issues))
	}
	if out := ast.OutputType(); !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("the condition is of type %s, it must be true or false", out)
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if !bounded(ast.NativeRep().Expr()) { // to count the work costs more than a simple condition does
		options = append(options, cel.CostLimit(costLimit))
	}
	program, err := env.Program(ast, options...)
	if err != nil {
		return nil, fmt.Errorf("the condition is not valid: %w", err)
	}
	return &condition{text: text, program: program}, nil
}

// bounded tells whether an expression's work is bounded by its own size and that of what it reads: it has no
// loop and no regular expression.
func bounded(e celast.Expr) bool {
	switch e.Kind() {
	case celast.IdentKind, celast.LiteralKind:
		return true
	case celast.SelectKind:
		return bounded(e.AsSelect().Operand())
	case celast.CallKind:
		c := e.AsCall()
		return c.FunctionName() != "matches" && (!c.IsMemberFunction() || bounded(c.Target())) && !slices.ContainsFunc(c.Args(), func(a celast.Expr) bool { return !bounded(a) })
	case celast.ListKind:
		return !slices.ContainsFunc(e.AsList().Elements(), func(a celast.Expr) bool { return !bounded(a) })
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

// holds evaluates the condition. An error is a condition that cannot be evaluated: a value that is not
// there or of another type, or more work than the limit.
func (c *condition) holds(a Arguments) (bool, error) {
	out, _, err := c.program.Eval(activation(a))
	if err != nil {
		return false, evaluationError(err)
	}
	value, ok := out.Value().(bool)
	if !ok {
		return false, errors.New("the condition is not true or false")
	}
	return value, nil
}

// evaluationError says why a condition could not be evaluated, without what it read.
func evaluationError(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "no such key"):
		return errors.New("the condition reads an argument that is not there")
	case strings.Contains(text, "cost limit"):
		return errors.New("the condition takes more work than its limit")
	}
	return errors.New("the condition cannot be evaluated on these arguments")
}

// activation gives a condition its variables.
type activation Arguments

// ResolveName returns a variable's value.
func (a activation) ResolveName(name string) (any, bool) {
	if name == "args" {
		return a.values, true
	}
	return nil, false
}

// Parent is nil: there are no other variables.
func (activation) Parent() interpreter.Activation { return nil }
