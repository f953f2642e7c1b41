// Renders templates that stand between lines of `---` with Alertmanager's own package, for the same alerts as `Data::sample`.
package main

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/template"
)

func alert(host string, fires bool, fingerprint string) template.Alert {
	a := template.Alert{
		Status:       "firing",
		Labels:       template.KV{"alertname": "DiskFull", "cluster": "eu-west-1", "host": host, "severity": "page"},
		Annotations:  template.KV{"summary": "disk / of " + host + " is 97 % full", "runbook_url": "https://wiki.example/disk"},
		StartsAt:     time.Unix(0, 1772366400123000000).UTC(),
		GeneratorURL: "http://127.0.0.1:3100/query?q=disk",
		Fingerprint:  fingerprint,
	}
	if !fires {
		a.Status = "resolved"
		a.EndsAt = time.Unix(0, 1772367000000000000).UTC()
	}
	return a
}

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	templates, err := template.FromGlobs(nil)
	if err != nil {
		panic(err)
	}
	common := template.KV{"alertname": "DiskFull", "cluster": "eu-west-1", "severity": "page"}
	data := &template.Data{
		Receiver:          "sample",
		Status:            "firing",
		Alerts:            template.Alerts{alert("web-1", true, "f1"), alert("web-2", true, "f2"), alert("web-3", false, "f3")},
		GroupLabels:       template.KV{"alertname": "DiskFull"},
		CommonLabels:      common,
		CommonAnnotations: template.KV{"runbook_url": "https://wiki.example/disk"},
		ExternalURL:       "http://127.0.0.1:9093",
	}
	type result struct {
		Template string  `json:"template"`
		Want     *string `json:"want"`
		Error    string  `json:"error,omitempty"`
		HTML     *string `json:"html,omitempty"`
	}
	var results []result
	for _, text := range strings.Split(strings.TrimSuffix(string(input), "\n"), "\n---\n") {
		r := result{Template: text}
		got, err := templates.ExecuteTextString(text, data)
		if err == nil {
			r.Want = &got
			if html, err := templates.ExecuteHTMLString(text, data); err == nil && html != got {
				r.HTML = &html
			}
		} else {
			r.Error = err.Error()
		}
		results = append(results, r)
	}
	if len(os.Args) > 1 {
		encode(defaults(templates, data))
		return
	}
	encode(results)
}

// The default templates for groups of several kinds, as text and as HTML.
func defaults(templates *template.Template, sample *template.Data) any {
	markup := alert("it's C:\\dir", true, "f4")
	markup.Labels["alertname"] = "<b>Q & \"A\"</b>"
	markup.Labels["note"] = "été 🔥 +1"
	markup.Annotations = template.KV{"summary": "line one\nline two\t<script>alert(1)</script>", "link": "https://wiki.example/?a=1&b=2#top"}
	bare := template.Alert{Status: "firing", Labels: template.KV{"job": "cron"}, Annotations: template.KV{}, StartsAt: markup.StartsAt}
	fired, resolved := alert("web-1", true, "f1"), alert("web-3", false, "f3")
	one := func(receiver string, a template.Alert) *template.Data {
		group := template.KV{}
		if name, ok := a.Labels["alertname"]; ok {
			group["alertname"] = name
		}
		return &template.Data{Receiver: receiver, Status: a.Status, Alerts: template.Alerts{a}, GroupLabels: group,
			CommonLabels: a.Labels, CommonAnnotations: a.Annotations, ExternalURL: "http://am.example:9093/x"}
	}
	type rendered struct {
		Text string `json:"text"`
		HTML string `json:"html"`
	}
	type group struct {
		Data      *template.Data      `json:"data"`
		Templates map[string]rendered `json:"templates"`
	}
	var groups []group
	for _, data := range []*template.Data{sample, one("web hook/ö", fired), one("r", resolved), one("m", markup), one("b", bare)} {
		g := group{data, map[string]rendered{}}
		for _, name := range strings.Fields(os.Args[1]) {
			call := "{{ template \"" + name + "\" . }}"
			if strings.HasPrefix(name, "__text_alert_list") || name == "pagerduty.default.instances" {
				call = "{{ template \"" + name + "\" .Alerts }}"
			}
			text, err := templates.ExecuteTextString(call, data)
			if err != nil {
				panic(err)
			}
			html, err := templates.ExecuteHTMLString(call, data)
			if err != nil {
				html = "error: " + err.Error()
			}
			g.Templates[name] = rendered{text, html}
		}
		groups = append(groups, g)
	}
	return groups
}

func encode(results any) {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(results); err != nil {
		panic(err)
	}
}
