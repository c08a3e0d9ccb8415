#include "examples/fashion_mnist/chart.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 960.0
#define HEIGHT 420.0
#define TOP 64.0
#define BOTTOM 372.0
#define POINTS 160u /* of a loss curve: each the mean of its steps */
#define TICKS 5u

/* A frame with axes; x and y run from 0 (or y_low) to the top of the data. */
typedef struct panel {
    const char *title;
    const char *x_title;
    double left, right;
    double x_top, y_low, y_top;
} panel;

/* Told apart by those who see no difference of red and green, and by print in grey. */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7"};
static const char *const dashes[] = {"none", "7 5", "2 4", "9 3 2 3"};
#define STYLES (sizeof colours / sizeof colours[0])

static double place_x(const panel *p, double x)
{
    return p->left + (p->right - p->left) * x / p->x_top;
}

static double place_y(const panel *p, double y)
{
    const double part = (y - p->y_low) / (p->y_top - p->y_low);
    return BOTTOM - (BOTTOM - TOP) * (part > 1 ? 1 : part < 0 ? 0 : part);
}

/* Between marks of an axis: 1, 2 or 5 times a power of ten, so that there are at most TICKS. */
static double round_step(double range, double least)
{
    static const double growth[] = {2, 2.5, 2}; /* 1, 2, 5, 10 */
    double step = least;
    for (unsigned i = 0; range / step > TICKS; i++) {
        step *= growth[i % 3];
    }
    return step;
}

static void draw_frame(FILE *file, const panel *p)
{
    (void)fprintf(file, "<text class=\"h\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", p->left, TOP - 10,
                  p->title);
    (void)fprintf(file, "<text class=\"t\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                  p->right, BOTTOM + 34, p->x_title);
    const double y_step = round_step(p->y_top - p->y_low, 0.01);
    const double x_step = round_step(p->x_top, 1);
    for (unsigned i = 0; p->y_low + y_step * i <= p->y_top + y_step / 100; i++) {
        const double y = p->y_low + y_step * i;
        (void)fprintf(file,
                      "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                      "<text class=\"t\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.2f</text>\n",
                      p->left, p->right, place_y(p, y), place_y(p, y), p->left - 6,
                      place_y(p, y) + 4, y);
    }
    for (unsigned i = 0; x_step * i <= p->x_top; i++) {
        (void)fprintf(
            file, "<text class=\"t\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.0f</text>\n",
            place_x(p, x_step * i), BOTTOM + 18, x_step * i);
    }
}

static void begin_line(FILE *file, size_t index)
{
    (void)fprintf(file,
                  "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" "
                  "stroke-dasharray=\"%s\" points=\"",
                  colours[index % STYLES], dashes[index % STYLES]);
}

/* Point i of at most POINTS: the mean loss of its steps, at their middle. */
static void loss_point(const fashion_report *report, unsigned i, double *x, double *y)
{
    const uint32_t points = report->steps_done < POINTS ? report->steps_done : POINTS;
    const uint32_t first = (uint32_t)((uint64_t)report->steps_done * i / points);
    const uint32_t end = (uint32_t)((uint64_t)report->steps_done * (i + 1) / points);
    double sum = 0;
    for (uint32_t step = first; step < end; step++) {
        sum += (double)report->loss[step];
    }
    *x = 0.5 * (double)(first + end);
    *y = sum / (double)(end - first);
}

static void draw_loss(FILE *file, const panel *p, const fashion_report *report, size_t index)
{
    begin_line(file, index);
    for (unsigned i = 0; i < POINTS && i < report->steps_done; i++) {
        double x = 0, y = 0;
        loss_point(report, i, &x, &y);
        (void)fprintf(file, "%.1f,%.1f ", place_x(p, x), place_y(p, y));
    }
    (void)fprintf(file, "\"/>\n");
}

static void draw_accuracy(FILE *file, const panel *p, const fashion_report *report, size_t index)
{
    begin_line(file, index);
    for (uint32_t i = 0; i < report->epochs_done; i++) {
        (void)fprintf(file, "%.1f,%.1f ", place_x(p, i + 1.0),
                      place_y(p, (double)report->accuracy[i]));
    }
    (void)fprintf(file, "\"/>\n");
}

static void draw_legend(FILE *file, const fashion_series *series, size_t count)
{
    double y = 30;
    for (size_t i = 0; i < count; i++, y += 18) {
        (void)fprintf(file,
                      "<line x1=\"660\" x2=\"700\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
                      "stroke-width=\"2\" stroke-dasharray=\"%s\"/>"
                      "<text class=\"t\" x=\"708\" y=\"%.1f\">%s: %.4f</text>\n",
                      y - 14, y - 14, colours[i % STYLES], dashes[i % STYLES], y - 10,
                      series[i].name, fashion_report_accuracy(series[i].report));
    }
}

/* Axes that hold all series: losses up to their highest point, accuracies from the lowest tenth. */
static void measure(panel *loss, panel *accuracy, const fashion_series *series, size_t count)
{
    double low = 1;
    for (size_t i = 0; i < count; i++) {
        const fashion_report *report = series[i].report;
        loss->x_top = report->steps_done > loss->x_top ? report->steps_done : loss->x_top;
        accuracy->x_top =
            report->epochs_done > accuracy->x_top ? report->epochs_done : accuracy->x_top;
        for (unsigned k = 0; k < POINTS && k < report->steps_done; k++) {
            double x = 0, y = 0;
            loss_point(report, k, &x, &y);
            loss->y_top = y > loss->y_top ? y : loss->y_top;
        }
        for (uint32_t k = 0; k < report->epochs_done; k++) {
            low = (double)report->accuracy[k] < low ? (double)report->accuracy[k] : low;
        }
    }
    const double step = round_step(loss->y_top, 0.01);
    loss->y_top = step * (double)(int)(loss->y_top / step + 1); /* ends at a mark */
    accuracy->y_low = (double)(int)(low * 10) / 10;
    accuracy->y_low = accuracy->y_low > 0.9 ? 0.9 : accuracy->y_low;
}

bool fashion_chart_write(const char *path, const char *title, const fashion_series *series,
                         size_t count)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        (void)fprintf(stderr, "fashion_mnist: cannot write %s: %s. Choose another --output.\n",
                      path, strerror(errno));
        return false;
    }
    panel loss = {"Training loss", "step", 60, 540, 1, 0, 0.1};
    panel accuracy = {"Test accuracy", "epoch", 620, 930, 1, 0, 1};
    measure(&loss, &accuracy, series, count);
    (void)fprintf(file,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
                  "width=\"%.0f\" height=\"%.0f\" role=\"img\">\n<title>%s</title>\n<style>"
                  "text{font-family:sans-serif;fill:#222}.t{font-size:12px}"
                  ".h{font-size:14px;font-weight:bold}.g{stroke:#ddd}</style>\n"
                  "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
                  "<text class=\"h\" x=\"60\" y=\"26\">%s</text>\n",
                  WIDTH, HEIGHT, WIDTH, HEIGHT, title, title);
    draw_frame(file, &loss);
    draw_frame(file, &accuracy);
    for (size_t i = 0; i < count; i++) {
        draw_loss(file, &loss, series[i].report, i);
        draw_accuracy(file, &accuracy, series[i].report, i);
    }
    draw_legend(file, series, count);
    (void)fprintf(file, "</svg>\n");
    const bool good = ferror(file) == 0;
    if (fclose(file) != 0 || !good) {
        (void)fprintf(stderr, "fashion_mnist: writing %s failed. Is the disk full?\n", path);
        return false;
    }
    return true;
}
