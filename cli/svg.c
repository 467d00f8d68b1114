#include "cli/svg.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum {
    PANEL_W = 560,
    PLOT_H = 330,
    LEFT = 76, /* margins of a plot in its panel */
    RIGHT = 34,
    TOP = 64,
    BOTTOM = 56,
    LEGEND_ROW = 20,
    LEGEND_CHARS = 72, /* longer names are cut */
    MAX_NAMES = 64,
    MAX_TICKS = 64,
    N_COLOURS = 8,
    N_SHAPES = 5
};

/* Told apart also by people who see few colours, and by the markers. */
static const char *const light[N_COLOURS] = {"#0b62a8", "#c2410c", "#0a7a5a", "#9b2f86",
                                             "#8a6a00", "#4b4fb5", "#a11d33", "#4d5560"};
static const char *const dark[N_COLOURS] = {"#6cb6ff", "#ff9a5c", "#4fd1a5", "#ef8bd6",
                                            "#e6c34d", "#a9acff", "#ff8090", "#b3bcc7"};

/* --- text --- */

/* Bytes of the UTF-8 sequence at s, 0: not valid (or a character that XML does not have). */
static int utf8_length(const unsigned char *s) {
    if (s[0] < 0x80) return s[0] >= 0x20 && s[0] != 0x7f;
    int n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if (s[0] == 0xe0 && s[1] < 0xa0) return 0;
    if (s[0] == 0xed && s[1] > 0x9f) return 0; /* surrogates */
    if (s[0] == 0xef && s[1] == 0xbf && s[2] > 0xbd) return 0;
    if (s[0] == 0xf0 && s[1] < 0x90) return 0;
    if (s[0] == 0xf4 && s[1] > 0x8f) return 0;
    return n;
}

/* At most `max` characters; what does not fit becomes three dots. */
static void put_text(bd_buf *out, const char *text, int max) {
    const unsigned char *s = (const unsigned char *)text;
    for (int count = 0; *s; count++) {
        if (count == max) {
            bd_buf_printf(out, "...");
            return;
        }
        int n = utf8_length(s);
        if (n == 0) bd_buf_printf(out, "?");
        else if (*s == '&') bd_buf_printf(out, "&amp;");
        else if (*s == '<') bd_buf_printf(out, "&lt;");
        else if (*s == '>') bd_buf_printf(out, "&gt;");
        else if (*s == '"') bd_buf_printf(out, "&quot;");
        else bd_buf_put(out, s, (size_t)n);
        s += n ? n : 1;
    }
}

static int text_width(const char *text, int max) {
    int chars = 0;
    for (const char *p = text; *p; p++) chars += ((unsigned char)*p & 0xc0) != 0x80;
    return 7 * (chars > max ? max + 3 : chars);
}

/* 1234567 as 1,234,567; numbers that are not whole as they are. */
static void put_number(bd_buf *out, double v) {
    char t[64], digits[64];
    if (fabs(v) < 10000 || fabs(v) > 1e15 || v != nearbyint(v)) {
        snprintf(t, sizeof t, "%.6g", v);
    } else {
        snprintf(digits, sizeof digits, "%.0f", fabs(v));
        size_t n = strlen(digits), at = 0;
        if (v < 0) t[at++] = '-';
        for (size_t i = 0; i < n; i++) {
            if (i && (n - i) % 3 == 0) t[at++] = ',';
            t[at++] = digits[i];
        }
        t[at] = 0;
    }
    bd_buf_printf(out, "%s", t);
}

/* --- axes --- */

typedef struct axis {
    double lo, hi; /* of the data's values, or of their logarithms */
    bool log;
    double at[MAX_TICKS];
    bool label[MAX_TICKS];
    int n;
} axis;

static double place(const axis *a, double v) { return ((a->log ? log10(v) : v) - a->lo) / (a->hi - a->lo); }

static bool drawable(const bd_svg_series *s, int i, bool log_y) {
    return isfinite(s->x[i]) && isfinite(s->y[i]) && (!log_y || s->y[i] > 0);
}

static void linear_axis(axis *a, double lo, double hi) {
    if (!(hi > lo)) { /* one value, or none */
        double room = lo != 0 ? fabs(lo) * 0.1 : 1;
        lo -= room;
        hi += room;
    }
    double raw = (hi - lo) / 5, power = pow(10, floor(log10(raw))), unit = raw / power;
    double step = power * (unit <= 1 ? 1 : unit <= 2 ? 2 : unit <= 2.5 ? 2.5 : unit <= 5 ? 5 : 10);
    double first = floor(lo / step), last = ceil(hi / step);
    a->log = false;
    a->lo = first * step;
    a->hi = last * step;
    a->n = 0;
    for (double k = first; k <= last && a->n < MAX_TICKS; k++) {
        a->label[a->n] = true;
        a->at[a->n++] = k * step;
    }
}

/* From one step of 1, 2, 5 below the data to one above. */
static void log_axis(axis *a, double lo, double hi) {
    static const double steps[] = {1, 2, 5};
    if (!(lo > 0)) lo = hi = 1;
    double down = floor(log10(lo)), up = floor(log10(hi));
    double first = pow(10, down), last = pow(10, up + 1);
    for (int k = 0; k < 3; k++)
        if (steps[k] * pow(10, down) <= lo * (1 - 1e-9)) first = steps[k] * pow(10, down);
    if (first > lo * (1 - 1e-9)) first = 5 * pow(10, down - 1);
    for (int k = 2; k >= 0; k--)
        if (steps[k] * pow(10, up) >= hi * (1 + 1e-9)) last = steps[k] * pow(10, up);
    a->log = true;
    a->lo = log10(first);
    a->hi = log10(last);
    a->n = 0;
    bool all = a->hi - a->lo < 3; /* label 2 and 5 too */
    for (double e = down - 1; e <= up + 1; e++)
        for (int d = 1; d <= 9; d++) {
            double v = d * pow(10, e);
            if (v < first * (1 - 1e-9) || v > last * (1 + 1e-9) || a->n == MAX_TICKS) continue;
            a->label[a->n] = d == 1 || (all && (d == 2 || d == 5));
            a->at[a->n++] = v;
        }
}

static void make_axes(const bd_svg_panel *p, axis *x, axis *y) {
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    for (int s = 0; s < p->n_series; s++)
        for (int i = 0; i < p->series[s].n; i++) {
            if (!drawable(&p->series[s], i, p->log_y)) continue;
            x0 = fmin(x0, p->series[s].x[i]);
            x1 = fmax(x1, p->series[s].x[i]);
            y0 = fmin(y0, p->series[s].y[i]);
            y1 = fmax(y1, p->series[s].y[i]);
        }
    if (!isfinite(x0)) x0 = x1 = y0 = y1 = 0;
    linear_axis(x, x0, x1);
    if (p->log_y) log_axis(y, y0, y1);
    else linear_axis(y, fmin(y0, 0), y1);
}

/* --- one panel --- */

typedef struct frame {
    bd_buf *out;
    double left, top, width, height;
    axis x, y;
} frame;

static double px(const frame *f, double v) { return f->left + f->width * place(&f->x, v); }
static double py(const frame *f, double v) { return f->top + f->height * (1 - place(&f->y, v)); }

static void put_line(bd_buf *out, const char *class, double x0, double y0, double x1, double y1) {
    bd_buf_printf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, x0, y0, x1,
                  y1);
}

static void put_axes(const frame *f, const bd_svg_panel *p) {
    double bottom = f->top + f->height, right = f->left + f->width;
    for (int i = 0; i < f->x.n; i++) {
        double x = px(f, f->x.at[i]);
        put_line(f->out, "grid", x, f->top, x, bottom);
        bd_buf_printf(f->out, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">", x, bottom + 17);
        put_number(f->out, f->x.at[i]);
        bd_buf_printf(f->out, "</text>\n");
    }
    for (int i = 0; i < f->y.n; i++) {
        double y = py(f, f->y.at[i]);
        put_line(f->out, f->y.label[i] ? "grid" : "minor", f->left, y, right, y);
        if (!f->y.label[i]) continue;
        bd_buf_printf(f->out, "<text class=\"tick\" text-anchor=\"end\" x=\"%.1f\" y=\"%.1f\">", f->left - 7,
                      y + 4);
        put_number(f->out, f->y.at[i]);
        bd_buf_printf(f->out, "</text>\n");
    }
    put_line(f->out, "axis", f->left, f->top, f->left, bottom);
    put_line(f->out, "axis", f->left, bottom, right, bottom);
    bd_buf_printf(f->out, "<text class=\"head\" x=\"%.1f\" y=\"%.1f\">", f->left, f->top - 12);
    put_text(f->out, p->title, LEGEND_CHARS);
    bd_buf_printf(f->out, "</text>\n<text class=\"name\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">",
                  f->left + f->width / 2, bottom + 38);
    put_text(f->out, p->x_label, LEGEND_CHARS);
    bd_buf_printf(f->out,
                  "</text>\n<text class=\"name\" text-anchor=\"middle\" transform=\"translate(%.1f %.1f) "
                  "rotate(-90)\">",
                  f->left - 58, f->top + f->height / 2);
    put_text(f->out, p->y_label, LEGEND_CHARS);
    bd_buf_printf(f->out, "</text>\n");
}

static void put_marker(bd_buf *out, int colour, int shape, double x, double y) {
    const double r = 4.5;
    bd_buf_printf(out, "<path class=\"m m%d\" d=\"", colour);
    switch (shape) {
        case 0:
            bd_buf_printf(out, "M%.1f %.1fa%.1f %.1f 0 1 0 %.1f 0a%.1f %.1f 0 1 0 %.1f 0z", x - r, y, r, r, 2 * r,
                          r, r, -2 * r);
            break;
        case 1: bd_buf_printf(out, "M%.1f %.1fh8v8h-8z", x - 4, y - 4); break;
        case 2: bd_buf_printf(out, "M%.1f %.1fl5 9h-10z", x, y - 5.5); break;
        case 3: bd_buf_printf(out, "M%.1f %.1fl5.5 5.5l-5.5 5.5l-5.5 -5.5z", x, y - 5.5); break;
        default: bd_buf_printf(out, "M%.1f %.1fl5 -9h-10z", x, y + 5.5); break;
    }
    bd_buf_printf(out, "\"/>\n");
}

/* Index of a name in the list; it is put there if it is new. */
static int name_index(const char **names, int *n, const char *name) {
    for (int i = 0; i < *n; i++)
        if (!strcmp(names[i], name)) return i;
    if (*n < MAX_NAMES) names[(*n)++] = name;
    return *n - 1;
}

/* What rises above the plot is cut off there. */
static double clamp(double v, double lo, double hi) { return v < lo ? lo : v > hi ? hi : v; }

static void put_series(const frame *f, const bd_svg_panel *p, const bd_svg_series *s, int k) {
    int colour = k % N_COLOURS, shape = k % N_SHAPES, drawn = 0;
    double bottom = f->top + f->height;
    for (int i = 0; i < s->n; i++) drawn += drawable(s, i, p->log_y);
    if (drawn > 1 && !s->faint) {
        bd_buf_printf(f->out, "<path class=\"l l%d\" d=\"", colour);
        bool first = true;
        for (int i = 0; i < s->n; i++) {
            if (!drawable(s, i, p->log_y)) continue;
            bd_buf_printf(f->out, "%s%.1f %.1f", first ? "M" : "L", px(f, s->x[i]), py(f, s->y[i]));
            first = false;
        }
        bd_buf_printf(f->out, "\"/>\n");
    }
    for (int i = 0; i < s->n; i++) {
        if (!drawable(s, i, p->log_y)) continue;
        double x = px(f, s->x[i]);
        if (s->err && isfinite(s->err[i]) && s->err[i] > 0) {
            double low = s->y[i] - s->err[i];
            double y0 = p->log_y && low <= 0 ? bottom : clamp(py(f, low), f->top, bottom);
            double y1 = clamp(py(f, s->y[i] + s->err[i]), f->top, bottom);
            bd_buf_printf(f->out, "<path class=\"e l%d\" d=\"M%.1f %.1fV%.1fM%.1f %.1fh7M%.1f %.1fh7\"/>\n", colour,
                          x, y0, y1, x - 3.5, y0, x - 3.5, y1);
        }
        put_marker(f->out, colour, shape, x, py(f, s->y[i]));
    }
}

/* --- the document --- */

static void put_style(bd_buf *out) {
    bd_buf_printf(out,
                  "<style>\n"
                  "text{font:12px system-ui,-apple-system,\"Segoe UI\",\"DejaVu Sans\",sans-serif;fill:#1f2328}\n"
                  ".title{font-size:15px;font-weight:600}.head{font-size:13px;font-weight:600}\n"
                  ".tick{font-size:11px;fill:#59636e}.bg{fill:#ffffff}\n"
                  ".grid{stroke:#d8dde3}.minor{stroke:#eef0f3}.axis{stroke:#59636e}\n"
                  ".l{fill:none;stroke-width:1.8;stroke-linejoin:round}.e{fill:none;stroke-width:1.2}\n"
                  ".m{stroke:#ffffff;stroke-width:1}\n");
    for (int i = 0; i < N_COLOURS; i++)
        bd_buf_printf(out, ".l%d{stroke:%s}.m%d{fill:%s}\n", i, light[i], i, light[i]);
    bd_buf_printf(out,
                  "@media (prefers-color-scheme:dark){\n"
                  "text{fill:#e6edf3}.tick{fill:#9da7b3}.bg{fill:#0d1117}\n"
                  ".grid{stroke:#2b323b}.minor{stroke:#1a2028}.axis{stroke:#9da7b3}.m{stroke:#0d1117}\n");
    for (int i = 0; i < N_COLOURS; i++)
        bd_buf_printf(out, ".l%d{stroke:%s}.m%d{fill:%s}\n", i, dark[i], i, dark[i]);
    bd_buf_printf(out, "}\n</style>\n");
}

/* Entries in rows; returns the height. Without `out`: only measures. */
static double put_legend(bd_buf *out, const char *const *names, int n, double top, double width) {
    double x = LEFT, y = top + LEGEND_ROW / 2.0;
    for (int i = 0; i < n; i++) {
        double w = 44 + text_width(names[i], LEGEND_CHARS);
        if (x > LEFT && x + w > width) {
            x = LEFT;
            y += LEGEND_ROW;
        }
        if (out) {
            bd_buf_printf(out, "<path class=\"l l%d\" d=\"M%.1f %.1fh22\"/>\n", i % N_COLOURS, x, y);
            put_marker(out, i % N_COLOURS, i % N_SHAPES, x + 11, y);
            bd_buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\">", x + 28, y + 4);
            put_text(out, names[i], LEGEND_CHARS);
            bd_buf_printf(out, "</text>\n");
        }
        x += w;
    }
    return y - top + LEGEND_ROW;
}

void bd_svg_chart(bd_buf *out, const char *title, const bd_svg_panel *panels, int n_panels) {
    const char *names[MAX_NAMES];
    int n = 0;
    for (int p = 0; p < n_panels; p++)
        for (int s = 0; s < panels[p].n_series; s++) name_index(names, &n, panels[p].series[s].name);
    double width = (double)PANEL_W * (n_panels > 0 ? n_panels : 1), below = TOP + PLOT_H + BOTTOM;
    double height = below + put_legend(NULL, names, n, below, width);
    bd_buf_printf(out,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
                  "%.0f\" role=\"img\">\n<title>",
                  width, height, width, height);
    put_text(out, title, 1000);
    bd_buf_printf(out, "</title>\n");
    put_style(out);
    bd_buf_printf(out,
                  "<rect class=\"bg\" width=\"100%%\" height=\"100%%\"/>\n<text class=\"title\" x=\"%d\" y=\"26\">",
                  LEFT);
    put_text(out, title, (int)width / 8);
    bd_buf_printf(out, "</text>\n");
    for (int p = 0; p < n_panels; p++) {
        frame f = {.out = out,
                   .left = (double)PANEL_W * p + LEFT,
                   .top = TOP,
                   .width = PANEL_W - LEFT - RIGHT,
                   .height = PLOT_H};
        make_axes(&panels[p], &f.x, &f.y);
        bd_buf_printf(out, "<g>\n");
        put_axes(&f, &panels[p]);
        for (int s = 0; s < panels[p].n_series; s++)
            put_series(&f, &panels[p], &panels[p].series[s], name_index(names, &n, panels[p].series[s].name));
        bd_buf_printf(out, "</g>\n");
    }
    put_legend(out, names, n, below, width);
    bd_buf_printf(out, "</svg>\n");
}
