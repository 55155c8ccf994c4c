// libweightsd for C++17: values that free themselves, and exceptions. Everything is in this header; link what weightsd.h
// needs. What a member is documented with in weightsd.h is not said again here.
#ifndef WEIGHTSD_HPP
#define WEIGHTSD_HPP

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weightsd.h"

namespace weightsd {

// Why a call failed. `what()` is the sentence.
class Error : public std::runtime_error {
public:
    explicit Error(const weightsd_error &error)
        : std::runtime_error(error.message), code(error.code), retryable(error.retryable), reason(error.reason),
          hint(error.hint), resource(error.resource), detail_json(error.detail_json) {}

    weightsd_code code;
    bool retryable;
    std::string reason;
    std::string hint;
    std::string resource;
    std::string detail_json;
};

namespace detail {

// Calls `call` with a place for an error, and throws what comes back in it.
template <typename Call> void check(Call call) {
    weightsd_error *error = nullptr;
    if (call(&error) == WEIGHTSD_CODE_OK) {
        return;
    }
    std::unique_ptr<weightsd_error, decltype(&weightsd_error_free)> owned(error, weightsd_error_free);
    throw Error(*owned);
}

inline std::string text(char *owned) {
    std::unique_ptr<char, decltype(&weightsd_text_free)> guard(owned, weightsd_text_free);
    return owned;
}

} // namespace detail

// Hears of a load's progress, on the thread that loads. Returns whether the load goes on. What it throws ends the load and
// comes out of `Connection::load`.
using Progress = std::function<bool(const weightsd_progress &)>;

// Ends loads early, from any thread. Copies are the same one.
class Cancellation {
public:
    Cancellation() : handle_(weightsd_cancellation_new(), weightsd_cancellation_free) {
        if (!handle_) {
            throw std::bad_alloc();
        }
    }
    void cancel() const { weightsd_cancel(handle_.get()); }
    const weightsd_cancellation *get() const { return handle_.get(); }

private:
    std::shared_ptr<weightsd_cancellation> handle_;
};

// Something that the holder of a component should know.
struct Notice {
    weightsd_notice_kind kind;
    std::string message;
};

// A component. Copies share it; tensors, layers and views live until the last copy is gone.
class Component {
public:
    explicit Component(weightsd_component *owned) : handle_(owned, weightsd_component_free) {}

    std::size_t size() const { return weightsd_tensor_count(get()); }
    // `index` below `size()`.
    const weightsd_tensor &operator[](std::size_t index) const { return *weightsd_tensor_at(get(), index); }
    // Null when there is no tensor of that name.
    const weightsd_tensor *find(const std::string &name) const { return weightsd_tensor_named(get(), name.c_str()); }
    // Throws `std::out_of_range`.
    const weightsd_tensor &at(const std::string &name) const {
        const weightsd_tensor *tensor = find(name);
        if (tensor == nullptr) {
            throw std::out_of_range("there is no tensor " + name);
        }
        return *tensor;
    }

    std::size_t layer_count() const { return weightsd_layer_count(get()); }
    const weightsd_layer &layer(std::size_t index) const { return *weightsd_layer_at(get(), index); }
    std::size_t view_count() const { return weightsd_view_count(get()); }
    const weightsd_view &view(std::size_t index) const { return *weightsd_view_at(get(), index); }
    std::string_view report() const { return weightsd_report(get()); }

    void release() const { weightsd_release(get()); }

    // Waits for the next notice; nothing when no more will come.
    std::optional<Notice> next_notice() const { return wait(-1); }
    // The same for a limited time; `Error` with WEIGHTSD_CODE_DEADLINE when it has passed.
    std::optional<Notice> next_notice(std::chrono::milliseconds patience) const { return wait(patience.count()); }

    const weightsd_component *get() const { return handle_.get(); }

private:
    std::optional<Notice> wait(std::int64_t milliseconds) const {
        weightsd_notice *notice = nullptr;
        detail::check([&](weightsd_error **error) {
            return weightsd_next_notice(get(), milliseconds, &notice, error);
        });
        if (notice == nullptr) {
            return std::nullopt;
        }
        std::unique_ptr<weightsd_notice, decltype(&weightsd_notice_free)> owned(notice, weightsd_notice_free);
        return Notice{owned->kind, owned->message};
    }

    std::shared_ptr<weightsd_component> handle_;
};

// What to load, and how. The texts inside `options` and `model` must live until `load` returns.
struct Request {
    std::string spec;
    std::string component;
    weightsd_load_options options{};
    weightsd_model_options model{};
    Progress on_progress;

    Request(std::string spec, std::string component) : spec(std::move(spec)), component(std::move(component)) {
        options.size = sizeof options;
        model.size = sizeof model;
    }
};

// A connection to the daemon. Copies share it.
class Connection {
public:
    // Null: the socket that the environment names.
    explicit Connection(const char *socket = nullptr) {
        weightsd_connect_options options{};
        options.size = sizeof options;
        options.socket = socket;
        weightsd_connection *connection = nullptr;
        detail::check([&](weightsd_error **error) { return weightsd_connect(&options, &connection, error); });
        handle_ = {connection, weightsd_disconnect};
    }

    Component load(const std::string &spec, const std::string &component) const {
        return load(Request(spec, component));
    }

    Component load(const Request &request) const {
        weightsd_load_options options = request.options;
        if (options.model == nullptr) {
            options.model = &request.model;
        }
        Listener listener{request.on_progress, nullptr};
        if (request.on_progress) {
            options.on_progress = &Listener::hear;
            options.context = &listener;
        }
        weightsd_component *component = nullptr;
        try {
            detail::check([&](weightsd_error **error) {
                return weightsd_load(get(), request.spec.c_str(), request.component.c_str(), &options, &component,
                                     error);
            });
        } catch (const Error &) {
            if (listener.thrown) {
                std::rethrow_exception(listener.thrown);
            }
            throw;
        }
        return Component(component);
    }

    std::string resolve(const std::string &spec, const weightsd_model_options *options = nullptr) const {
        char *json = nullptr;
        detail::check([&](weightsd_error **error) {
            return weightsd_resolve(get(), spec.c_str(), options, &json, error);
        });
        return detail::text(json);
    }

    // Null: every component.
    std::string audit(const std::string &spec, const char *component = nullptr,
                      const weightsd_model_options *options = nullptr) const {
        char *json = nullptr;
        detail::check([&](weightsd_error **error) {
            return weightsd_audit(get(), spec.c_str(), component, options, &json, error);
        });
        return detail::text(json);
    }

    const weightsd_connection *get() const { return handle_.get(); }

private:
    // No exception may pass through the library, so it waits here.
    struct Listener {
        const Progress &on_progress;
        std::exception_ptr thrown;

        static bool hear(const weightsd_progress *progress, void *context) noexcept {
            auto *self = static_cast<Listener *>(context);
            try {
                return self->on_progress(*progress);
            } catch (...) {
                self->thrown = std::current_exception();
                return false;
            }
        }
    };

    std::shared_ptr<weightsd_connection> handle_;
};

} // namespace weightsd

#endif // WEIGHTSD_HPP
