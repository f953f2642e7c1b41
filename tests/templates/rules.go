// Renders templates that stand between lines of `---` with Prometheus's own package, as it renders annotations of alerts.
package main

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"
)

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	external, _ := url.Parse("http://page.example:3100/logs")
	labels := map[string]string{"instance": "10.0.0.7:9100", "job": "api", "region": "eu-west-1"}
	others := map[string]string{"cluster": "prod"}
	before := "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"
	type result struct {
		Template string  `json:"template"`
		Want     *string `json:"want"`
		Error    string  `json:"error,omitempty"`
	}
	var results []result
	for _, text := range strings.Split(strings.TrimSuffix(string(input), "\n"), "\n---\n") {
		r := result{Template: text}
		data := template.AlertTemplateData(labels, others, external.String(), promql.Sample{F: 1234.5678})
		expander := template.NewTemplateExpander(context.Background(), before+text, "__alert_x", data, model.Time(1772366400000), nil, external, nil)
		if got, err := expander.Expand(); err == nil {
			r.Want = &got
		} else {
			r.Error = err.Error()
		}
		results = append(results, r)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(results); err != nil {
		panic(err)
	}
}
