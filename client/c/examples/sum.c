/* Loads a component, sums its first float tensor and follows notices: sum MODEL COMPONENT
 *
 *     cc -std=c99 sum.c $(pkg-config --cflags --libs weightsd) -o sum
 */
#include <stdio.h>
#include <string.h>

#include <weightsd.h>

static int failed(weightsd_error *error)
{
    fprintf(stderr, "%s\n", error->message);
    if (error->hint[0] != '\0')
        fprintf(stderr, "hint: %s\n", error->hint);
    weightsd_error_free(error);
    return 1;
}

static bool show(const weightsd_progress *progress, void *context)
{
    (void)context;
    fprintf(stderr, "phase %d, %s\n", (int)progress->phase, progress->file);
    return true; /* Go on. */
}

/* The element `index` of a tensor of BF16 or F32. Tensors may begin anywhere, so bytes are copied. */
static float element(const weightsd_tensor *tensor, size_t index)
{
    uint32_t bits = 0;
    float value;
    if (tensor->dtype == WEIGHTSD_DTYPE_BF16) {
        uint16_t half;
        memcpy(&half, (const char *)tensor->data + 2 * index, sizeof half);
        bits = (uint32_t)half << 16;
    } else {
        memcpy(&bits, (const char *)tensor->data + 4 * index, sizeof bits);
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

int main(int count, char **arguments)
{
    weightsd_connection *connection;
    weightsd_component *component;
    weightsd_notice *notice;
    weightsd_error *error;
    if (count != 3) {
        fprintf(stderr, "usage: sum MODEL COMPONENT\n");
        return 2;
    }
    if (weightsd_connect(NULL, &connection, &error) != WEIGHTSD_CODE_OK)
        return failed(error);
    weightsd_load_options options = WEIGHTSD_LOAD_OPTIONS;
    options.on_progress = show;
    if (weightsd_load(connection, arguments[1], arguments[2], &options, &component, &error) != WEIGHTSD_CODE_OK) {
        weightsd_disconnect(connection);
        return failed(error);
    }
    for (size_t at = 0; at < weightsd_tensor_count(component); at++) {
        const weightsd_tensor *tensor = weightsd_tensor_at(component, at);
        if (tensor->dtype == WEIGHTSD_DTYPE_BF16 || tensor->dtype == WEIGHTSD_DTYPE_F32) {
            size_t elements = tensor->length / (tensor->dtype == WEIGHTSD_DTYPE_BF16 ? 2 : 4);
            double sum = 0;
            for (size_t index = 0; index < elements; index++)
                sum += element(tensor, index);
            printf("%s %s %.6g\n", tensor->name, tensor->dtype_name, sum);
            break;
        }
    }
    fflush(stdout);
    /* Until the lease is released or lost. */
    while (weightsd_next_notice(component, -1, &notice, NULL) == WEIGHTSD_CODE_OK && notice != NULL) {
        printf("notice %d: %s\n", (int)notice->kind, notice->message);
        fflush(stdout);
        weightsd_notice_free(notice);
    }
    weightsd_component_free(component);
    weightsd_disconnect(connection);
    return 0;
}
